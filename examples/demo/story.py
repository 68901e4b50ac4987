"""The story in seven chapters; each does something, reports it, and checks the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.demo.looking import Curl, Json, Service, records_of, shown
from examples.demo.processes import Child
from examples.demo.timeline import Timeline


class Story:
    """What the chapters share, and what they learn."""

    def __init__(
        self,
        timeline: Timeline,
        *,
        service: Child,
        worker: Child,
        http: Service,
        bootstrap: str,
        ledger: Path,
    ) -> None:
        self.timeline = timeline
        self._service = service
        self._worker = worker
        self._http = http
        self._curl = Curl(http.address)
        self._bootstrap = bootstrap
        self._ledger = ledger
        self._fulfil = self._packed = ""
        self._quote = self._price = ""
        self._approved = ""

    async def play(self) -> None:
        await self.a_task_is_published()
        await self.the_service_is_killed()
        await self.it_is_started_again()
        await self.the_answer_comes_over_kafka()
        await self.a_person_resolves_by_curl()
        await self.a_repeat_is_a_duplicate()
        await self.a_person_rejects_by_curl()
        await self.time_runs_out()
        await self.everything_stops_in_order()

    # ── chapters ────────────────────────────────────────────────────────────────────────────

    async def a_task_is_published(self) -> None:
        self.timeline.chapter("A handler publishes a task and waits")
        await self._start_service()
        self._fulfil = await self._http.send("fulfil", {"id": "o-17", "item": "book"})
        self._show("client", f"called orders/fulfil: {self._fulfil}")
        task = await self._task("pack-requests")
        self._packed = task["awakeable_id"]
        self._show("kafka", f"pack-requests has the task {json.dumps(task['payload'])} for {self._packed}")
        self._check("the task says where to answer", task["reply_to"] == "demo.completions")
        await self._check_waits(self._fulfil, self._packed)

    async def the_service_is_killed(self) -> None:
        self.timeline.chapter("The service is killed while the handler waits")
        pid = self._service.pid
        self._show("service", f"kill -9 {pid}", style="bold red")
        status = await self._service.kill()
        self._check("its process died of SIGKILL", status == -9, found=status)
        self._check("nobody answers HTTP", not await self._http.ready())

    async def it_is_started_again(self) -> None:
        self.timeline.chapter("It is restarted on the same file")
        await self._start_service()
        await self._check_waits(self._fulfil, self._packed)
        self._quote = await self._http.send("quote", {"id": "o-18", "item": "yacht"})
        self._price = (await self._task("quote-requests"))["awakeable_id"]
        self._show("client", f"called orders/quote, which gives {self._price} three seconds")

    async def the_answer_comes_over_kafka(self) -> None:
        self.timeline.chapter("Only now a worker is started; it answers over Kafka")
        await self._worker.start()
        self._show("worker", f"awakeables worker examples.demo.app:packer (pid {self._worker.pid})")
        row = await self._ended(self._fulfil)
        self._show("service", f"orders/fulfil returned {_value(row)}")
        settled = await self._http.awakeable(self._packed)
        self._show("kafka", f"{self._packed} was settled by {settled['settled_by']}")
        self._check("the answer came over Kafka", settled["settled_by"].startswith("kafka:demo.completions:"))
        self._check("it was accepted once", settled["verdicts"]["accepted"] == 1, found=settled["verdicts"])
        await self._check_finished_once(row)

    async def a_person_resolves_by_curl(self) -> None:
        self.timeline.chapter("An awakeable is resolved over HTTP")
        invocation_id, self._approved = await self._ask_for_approval("o-19")
        answer = await self._complete(self._curl.resolve(self._approved, {"hello": "world"}))
        self._check("the verdict is accepted", answer["verdict"] == "accepted", found=answer)
        row = await self._ended(invocation_id)
        self._show("service", f"orders/approve returned {_value(row)}")
        self._check(
            "the handler got the value", _result(row) == {"order": "o-19", "approved": {"hello": "world"}}
        )

    async def a_repeat_is_a_duplicate(self) -> None:
        self.timeline.chapter("The same request again")
        answer = await self._complete(self._curl.resolve(self._approved, {"hello": "world"}))
        self._check("the verdict on the repeat is duplicate", answer["verdict"] == "duplicate", found=answer)

    async def a_person_rejects_by_curl(self) -> None:
        self.timeline.chapter("An awakeable is rejected")
        invocation_id, awakeable_id = await self._ask_for_approval("o-20")
        answer = await self._complete(self._curl.reject(awakeable_id, "Very bad error!"))
        self._check("the verdict is accepted", answer["verdict"] == "accepted", found=answer)
        row = await self._ended(invocation_id)
        self._show("service", f"orders/approve returned {_value(row)}")
        self._check(
            "the handler got the reason", _result(row) == {"order": "o-20", "refused": "Very bad error!"}
        )

    async def time_runs_out(self) -> None:
        self.timeline.chapter("An awakeable times out, and its answer comes late")
        row = await self._ended(self._quote)
        self._show("service", f"orders/quote returned {_value(row)}")
        expired = await self._http.awakeable(self._price)
        self._check("it timed out", expired["state"] == "timed-out", found=expired["state"])
        answer = await self._complete(self._curl.resolve(self._price, 99.5))
        self._check("the verdict on the late answer is late", answer["verdict"] == "late", found=answer)
        self._check("it changed nothing", (await self._http.awakeable(self._price))["state"] == "timed-out")

    async def everything_stops_in_order(self) -> None:
        self.timeline.chapter("Everything is stopped")
        for child in (self._worker, self._service):
            status = await child.stop()
            self._check(f"the {child.name} drained and exited with 0", status == 0, found=status)

    # ── what the chapters are made of ───────────────────────────────────────────────────────

    async def _start_service(self) -> None:
        await self._service.start()

        async def ready() -> bool:
            if not self._service.alive:
                self._check("the service runs", False, found=self._service.last_words(3))
            return await self._http.ready()

        await self.timeline.until("the service is ready", ready, within_s=30)
        self._show("service", f"awakeables serve, at {self._http.address} (pid {self._service.pid})")

    async def _task(self, topic: str, number: int = 1) -> Json:
        """The newest task of a topic, once it has this many."""

        async def tasks() -> list[Json]:
            found: dict[str, Json] = {}
            for record in await records_of(self._bootstrap, topic):
                task = json.loads(record.value or b"")
                found[task["event_id"]] = task
            return list(found.values())[number - 1 :]

        return (await self.timeline.until(f"a task in {topic}", tasks))[-1]

    async def _ask_for_approval(self, order: str) -> tuple[str, str]:
        before = len(await records_of(self._bootstrap, "approval-requests"))
        invocation_id = await self._http.send("approve", {"id": order, "item": "piano"})
        awakeable_id = (await self._task("approval-requests", before + 1))["awakeable_id"]
        self._show("client", f"called orders/approve, which waits for {awakeable_id}")
        return invocation_id, awakeable_id

    async def _complete(self, command: list[str]) -> Json:
        self._show("curl" if self._curl.there else "python", shown(command), style="bold")
        answer = await self._curl.run(command)
        self._show("", json.dumps({k: answer[k] for k in ("verdict", "detail") if k in answer}))
        return answer

    async def _ended(self, invocation_id: str) -> Json:
        return await self.timeline.until(
            f"{invocation_id} has ended", lambda: self._http.ended(invocation_id), within_s=30
        )

    async def _check_waits(self, invocation_id: str, awakeable_id: str) -> None:
        row = await self._http.invocation(invocation_id)
        state = (await self._http.awakeable(awakeable_id))["state"]
        waits = row["status"] in ("running", "suspended", "pending") and state == "pending"
        self._check(f"the handler waits (it is {row['status']}, its awakeable {state})", waits)

    async def _check_finished_once(self, row: Mapping[str, Any]) -> None:
        calls = [each for each in await self._http.invocations() if each["handler"] == "fulfil"]
        self._check("there is one invocation of orders/fulfil", len(calls) == 1, found=calls)
        kinds = [entry["entry"]["k"] for entry in row["journal"]]
        expected = ["input", "awakeable", "publish", "outcome", "run", "outcome"]
        self._check("its journal has one publish, and each outcome once", kinds == expected, found=kinds)
        events = {
            json.loads(r.value or b"")["event_id"] for r in await records_of(self._bootstrap, "pack-requests")
        }
        self._check("Kafka has one task", len(events) == 1, found=events)
        lines = self._ledger.read_text().splitlines()
        self._check(f"its side effect happened once: {lines[0]}", len(lines) == 1, found=lines)

    def _show(self, who: str, what: str, *, style: str = "") -> None:
        self.timeline.show(who, what, style=style)

    def _check(self, claim: str, holds: object, *, found: object = "") -> None:
        self.timeline.check(claim, holds, found=found)


def _result(row: Mapping[str, Any]) -> Any:
    return row["result"]["value"]


def _value(row: Mapping[str, Any]) -> str:
    return json.dumps(_result(row))
