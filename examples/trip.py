"""A trip is booked whole or not at all: a saga.

A seat is reserved and a card is charged through partners' APIs, which take the trip's ID as an idempotency
key; the hotel confirms the room when it gets to it. If a step fails, nobody answers within a day, or the trip
is cancelled, what was done is undone, the last step first, whatever crashes meanwhile.

With `{"id": "t-1", "flight": "LH 1", "hotel": "Krone"}` in trip.json:

    awakeables dev trip:app --worker trip:hotel
    curl localhost:8080/trips/book -H 'idempotency-key: t-1' --json @trip.json
    awakeables cancel inv_…     # while it waits for its hotel: it is refunded, and its seat is free again
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from awakeables import App, Context, Reject, RetryPolicy, Service, Task, TerminalError, Worker

TASKS = "rooms"
PATIENCE = timedelta(days=1)
STUBBORN = RetryPolicy(max_attempts=5)
"""For the steps: after this they have failed. The undos have no policy: they are tried until they succeed."""

trips = Service("trips")
bookings: dict[str, set[str]] = {"seats": set(), "payments": set()}
"""Stands for the partners."""


class Trip(BaseModel):
    id: str = Field(min_length=1, max_length=100)
    flight: str
    hotel: str


class Booked(BaseModel):
    trip: str
    room: str


@trips.handler()
async def book(ctx: Context, trip: Trip) -> Booked:
    async with ctx.saga() as saga:
        saga.undo("free the seat", free_seat, trip.id)
        await ctx.run("reserve a seat", reserve_seat, trip.id, trip.flight, retry=STUBBORN)
        saga.undo("refund", refund, trip.id)
        await ctx.run("charge", charge, trip.id, retry=STUBBORN)
        room = ctx.awakeable(str, timeout=PATIENCE)
        ctx.publish(TASKS, trip, awakeable=room, task="confirm")
        return Booked(trip=trip.id, room=await room)


def reserve_seat(trip_id: str, flight: str) -> None:
    if flight == "full":
        raise TerminalError(f"no seat on {flight}", code=409)
    bookings["seats"].add(trip_id)


def free_seat(trip_id: str) -> None:
    """Also if it was never reserved, or is free already."""
    bookings["seats"].discard(trip_id)


def charge(trip_id: str) -> None:
    bookings["payments"].add(trip_id)


def refund(trip_id: str) -> None:
    bookings["payments"].discard(trip_id)


app = App("travel", services=[trips])

hotel = Worker("hotel")


@hotel.task(TASKS, name="confirm")
async def confirm(task: Task[Trip]) -> str:
    if task.payload.hotel == "full":
        raise Reject("no room left", code=409)
    return f"room-of-{task.payload.id}"
