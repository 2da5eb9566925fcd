"""Who talks to whom. Knows connections by `relayd.routing.connection.Connection` alone, not by sockets."""
