"""The chat service where two requests cross."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from langgraph_checkpoint_dual import CheckpointerConfig

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


async def test_a_thread_that_is_deleted_before_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    service, local_model = import_module("service"), import_module("local_model")

    class Deleting(local_model.LocalModel):
        """Deletes the thread that it is asked in, before it answers."""

        async def ainvoke(self, *given: Any, **options: Any) -> Any:
            [thread] = app.state.chats.saver.threads.list().threads
            await app.state.chats.saver.threads.adelete(thread.thread_id)
            return await super().ainvoke(*given, **options)

    settings = CheckpointerConfig(url=f"sqlite:///{tmp_path / 'chats.db'}")
    app = service.make_app(settings, Deleting(), 4000)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", headers={"X-User": "ada"}) as http,
    ):
        thread = (await http.post("/threads", json={"title": "Rome"})).json()["thread_id"]
        answer = await http.post(f"/threads/{thread}/messages", json={"text": "hello"})
        assert (answer.status_code, answer.json()["detail"]) == (404, "the thread was deleted before the answer came")
        assert (await http.get("/threads")).json()["threads"] == []
