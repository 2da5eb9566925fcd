"""Certificates by ACME (RFC 8555): asked for, proven, kept and renewed. Imported only with ``--domain``."""
