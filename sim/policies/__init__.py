"""Allocator policies: where a (sequence, position) lives. One file each, found by entry point."""
