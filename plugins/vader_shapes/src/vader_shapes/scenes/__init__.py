"""The scenes: one to three objects with sizes, speeds and relations; the world of one object is a part of it."""
