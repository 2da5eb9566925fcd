"""How bytes arrive: listeners, request heads, connections."""
