"""What ``relayd NAME`` does beside being the relay.

One module per command: ``HELP`` is its line in the list, ``configure`` adds its flags to a parser, and
``run`` does it and returns the exit status.
"""
