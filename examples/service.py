"""A chat service: threads of users, with titles, search, pages of messages, and a budget of tokens for the model.

    export CHECKPOINTER_URL=postgresql://user:password@localhost:5432/app
    python examples/service.py --port 8000
    curl -X POST localhost:8000/threads -H "X-User: ada" -H "Content-Type: application/json" -d '{"title": "Rome"}'

Needs fastapi and uvicorn. The header X-User stands for whatever tells who is asking: put your authentication there.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import uvicorn
from chat import choose_model
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import trim_messages
from langchain_core.messages.utils import count_tokens_approximately
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel

from langgraph_checkpoint_dual import AsyncPostgresSaver, AsyncSqliteSaver, CheckpointerConfig
from langgraph_checkpoint_dual.conversation import StoredMessage
from langgraph_checkpoint_dual.errors import ConfigError, StaleHeadError
from langgraph_checkpoint_dual.registry import Thread

Saver = AsyncSqliteSaver | AsyncPostgresSaver


# What goes in and out -------------------------------------------------------------------------------------------------


class Naming(BaseModel):
    title: str | None = None
    pinned: bool | None = None


class Said(BaseModel):
    text: str


class ThreadOut(BaseModel):
    thread_id: str
    title: str | None
    pinned: bool
    status: str
    updated_at: datetime

    @classmethod
    def of(cls, thread: Thread) -> ThreadOut:
        pinned = thread.metadata.get("pinned") is True
        return cls(**thread._asdict() | {"pinned": pinned})


class ThreadsOut(BaseModel):
    threads: list[ThreadOut]
    cursor: str | None


class MessageOut(BaseModel):
    idx: int
    role: str
    text: str
    at: datetime | None

    @classmethod
    def of(cls, stored: StoredMessage) -> MessageOut:
        return cls(idx=stored.idx, role=stored.message.type, text=stored.message.text, at=stored.added_at)


class HitOut(BaseModel):
    thread_id: str
    idx: int
    snippet: str


# The graph ------------------------------------------------------------------------------------------------------------


def build_graph(model: BaseChatModel, saver: Saver, budget: int) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A model that sees as many of the latest messages as fit into a budget of tokens; the database keeps all."""

    async def answer(state: MessagesState) -> dict[str, Any]:
        shown = trim_messages(
            state["messages"],
            max_tokens=budget,
            token_counter=count_tokens_approximately,
            start_on="human",
            include_system=True,
        )
        return {"messages": [await model.ainvoke(shown or state["messages"][-1:])]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile(checkpointer=saver)


# The service ----------------------------------------------------------------------------------------------------------


@dataclass
class Chats:
    """What the requests work with."""

    saver: Saver
    graph: CompiledStateGraph[Any, Any, Any, Any]


def chats_of(request: Request) -> Chats:
    found: Chats = request.app.state.chats
    return found


User = Annotated[str, Header(alias="X-User", min_length=1)]
Service = Annotated[Chats, Depends(chats_of)]
Limit = Annotated[int, Query(ge=1, le=100)]


async def owned(thread_id: str, user: User, chats: Service) -> Thread:
    """The thread, if it is the user's: those of others do not exist for anybody else."""
    thread = await chats.saver.threads.aget(thread_id)
    if thread is None or thread.user_id != user:
        raise HTTPException(404, "there is no such thread")
    return thread


Owned = Annotated[Thread, Depends(owned)]


router = APIRouter()


@router.post("/threads", status_code=201)
async def begin(naming: Naming, user: User, chats: Service) -> ThreadOut:
    return ThreadOut.of(await chats.saver.threads.aregister(str(uuid4()), user_id=user, title=naming.title))


@router.get("/threads")
async def threads(user: User, chats: Service, limit: Limit = 20, cursor: str | None = None) -> ThreadsOut:
    try:
        page = await chats.saver.threads.alist(user_id=user, limit=limit, cursor=cursor)
    except ConfigError as error:
        raise HTTPException(422, str(error)) from error
    return ThreadsOut(threads=[ThreadOut.of(one) for one in page.threads], cursor=page.cursor)


@router.patch("/threads/{thread_id}")
async def name(thread: Owned, naming: Naming, chats: Service) -> ThreadOut:
    metadata = None if naming.pinned is None else {"pinned": naming.pinned}
    return ThreadOut.of(await chats.saver.threads.aupdate(thread.thread_id, title=naming.title, metadata=metadata))


@router.delete("/threads/{thread_id}", status_code=204)
async def delete(thread: Owned, chats: Service) -> None:
    await chats.saver.threads.adelete(thread.thread_id)


@router.post("/threads/{thread_id}/messages")
async def say(thread: Owned, said: Said, chats: Service) -> MessageOut:
    config: Any = {"configurable": {"thread_id": thread.thread_id}}
    config["metadata"] = {"user_id": thread.user_id, "title": thread.title or said.text[:60]}
    try:
        await chats.graph.ainvoke({"messages": [("human", said.text)]}, config, durability="sync")
    except StaleHeadError as error:
        raise HTTPException(409, "another message to this thread is being answered; try again") from error
    for answer in await chats.saver.messages(thread.thread_id).apage(1, reverse=True):
        return MessageOut.of(answer)
    raise HTTPException(404, "the thread was deleted before the answer came")


@router.get("/threads/{thread_id}/messages")
async def messages(
    thread: Owned, chats: Service, limit: Limit = 20, before: Annotated[int | None, Query(ge=0)] = None
) -> list[MessageOut]:
    """The latest messages, or those before one that was shown; oldest first."""
    page = await chats.saver.messages(thread.thread_id).apage(limit, before_idx=before, reverse=True)
    return [MessageOut.of(one) for one in reversed(page)]


@router.get("/threads/{thread_id}/stats")
async def stats(thread: Owned, chats: Service) -> dict[str, Any]:
    return (await chats.saver.messages(thread.thread_id).astats())._asdict()


@router.get("/search")
async def search(user: User, chats: Service, q: str, limit: Limit = 20) -> list[HitOut]:
    page = await chats.saver.asearch(q, user_id=user, limit=limit)
    return [HitOut(thread_id=hit.thread_id, idx=hit.idx, snippet=hit.snippet) for hit in page.hits]


def make_app(settings: CheckpointerConfig, model: BaseChatModel, budget: int) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # fence: of two messages to one thread at the same moment one is answered, the other is told to try again
        async with settings.acreate(search=True, fence=True) as saver:
            await saver.setup()
            app.state.chats = Chats(saver, build_graph(model, saver, budget))
            yield

    app = FastAPI(title="Chats", lifespan=lifespan)
    app.include_router(router)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", help='a name for init_chat_model, such as openai:gpt-4.1-mini, or "local"')
    parser.add_argument("--budget", type=int, default=4000, help="how many tokens the model is shown")
    given = parser.parse_args()
    try:
        settings = CheckpointerConfig()
    except ConfigError as error:
        parser.error(str(error))
    uvicorn.run(make_app(settings, choose_model(given.model), given.budget), port=given.port)


if __name__ == "__main__":
    main()
