"""The thin core of the lowvis packages."""
