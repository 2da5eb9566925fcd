"""The soak: a relay under minutes of random traffic, kills and reconnect storms."""
