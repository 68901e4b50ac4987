-- Which versions of the code an invocation has (JSON); NULL: version 1 of its handler, and nothing else.

ALTER TABLE invocations ADD COLUMN versions BLOB;

PRAGMA user_version = 14;
