"""Models that share their names with those of test_openapi_types.py, and are others."""

from pydantic import BaseModel


class Line(BaseModel):
    bytes_read: int


class Order(BaseModel):
    lines: list[Line]
