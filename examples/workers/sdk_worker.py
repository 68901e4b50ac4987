"""A worker with the SDK: packs orders, and rejects some."""

from pydantic import BaseModel

from awakeables import Reject, Task, Worker


class Order(BaseModel):
    order: str


class Parcel(BaseModel):
    parcel: str


packer = Worker("packer")


@packer.task("pack-requests")
async def pack(task: Task[Order]) -> Parcel:
    if task.payload.order == "sold-out":
        raise Reject("out of stock", code=409, details={"order": task.payload.order})
    return Parcel(parcel=f"parcel of {task.payload.order}")
