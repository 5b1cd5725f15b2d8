"""The version, where every part can read it."""

VERSION = "0.2.0"
