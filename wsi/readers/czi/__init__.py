"""Zeiss CZI slides."""
