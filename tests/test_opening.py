"""Savers that are opened by the URL of their database, or by settings; and that no password is ever shown."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

import langgraph_checkpoint_dual
from langgraph_checkpoint_dual import (
    AsyncPostgresSaver,
    AsyncSqliteSaver,
    CheckpointerConfig,
    PostgresSaver,
    SqliteSaver,
    aopen_saver,
    open_saver,
)
from langgraph_checkpoint_dual.errors import CheckpointerError, ConfigError
from langgraph_checkpoint_dual.opening import masked, target
from tests.support.checkpoints import config, put
from tests.support.tables import tables

SECRET = "geheim"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def url(postgres_uri: str) -> str:
    """The empty Postgres database as a URL."""
    return "postgresql://?" + urlencode(conninfo_to_dict(postgres_uri), quote_via=quote)


def files_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


async def used(saver: Any) -> Any:
    """A saver that has stored something."""
    await put(saver, config(), {"n": 1})
    found = await saver.aget_tuple(config())
    assert found.checkpoint["channel_values"] == {"n": 1}
    return saver


class TestUrls:
    @pytest.mark.parametrize(
        ("given", "file"),
        [
            ("sqlite:///chats.db", "chats.db"),
            ("sqlite:///deep/chats.db", "deep/chats.db"),
            ("SQLite+aiosqlite:///chats.db", "chats.db"),
            ("sqlite:///{here}/chats.db", "chats.db"),
            ("chats.db", "chats.db"),
            ("{here}/chats.db", "chats.db"),
            ("a=b.db", "a=b.db"),
            ("sqlite:///with%20a%20space%3F.db", "with a space?.db"),
            ("sqlite://", None),
            ("sqlite:///", None),
            ("sqlite://:memory:", None),
            ("sqlite:///:memory:", None),
            (":memory:", None),
        ],
    )
    async def test_sqlite(self, tmp_path: Path, given: str, file: str | None) -> None:
        given = given.format(here=tmp_path)
        with open_saver(given) as saver:
            assert type(await used(saver)) is SqliteSaver
        async with aopen_saver(given) as asaver:
            assert type(await used(asaver)) is AsyncSqliteSaver
        assert files_in(tmp_path) == [file] * bool(file)

    async def test_path_objects(self, tmp_path: Path) -> None:
        with open_saver(tmp_path / "chats.db") as saver:
            await used(saver)
        assert (tmp_path / "chats.db").exists()

    @pytest.mark.parametrize("scheme", ["postgresql://", "postgres://", "postgresql+psycopg://"])
    async def test_postgres(self, url: str, scheme: str) -> None:
        given = url.replace("postgresql://", scheme)
        with open_saver(given, max_size=2) as saver:
            assert type(await used(saver)) is PostgresSaver
        async with aopen_saver(given, max_size=2) as asaver:
            assert type(await used(asaver)) is AsyncPostgresSaver

    async def test_libpq_notation(self, postgres_uri: str) -> None:
        with open_saver(postgres_uri) as saver:
            assert type(await used(saver)) is PostgresSaver

    async def test_awaited(self, url: str) -> None:
        for given in ("sqlite:///chats.db", url):
            saver = await aopen_saver(given, prefix="own_")
            await used(saver)
            await saver.aclose()
            assert "own_items" in tables("chats.db" if "sqlite" in given else url)

    async def test_a_block_that_was_left_has_closed_the_saver(self, url: str) -> None:
        for given in ("sqlite:///chats.db", url):
            async with aopen_saver(given) as saver:
                await used(saver)
            with pytest.raises(CheckpointerError, match="closed"):
                await saver.aget_tuple(config())

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("mysql://root:geheim@host/db", "no saver for mysql:// URLs; use sqlite:///path"),
            ("sqlite://chats.db", "three slashes"),
            ("sqlite:///chats.db?mode=ro", "give them as arguments"),
            ("postgresql://user:geh/eim@host/db", "%40"),
            ("postgresql://user:geh%eim@host/db", "%40"),
            ("postgresql://user:geh eim@host/db", "%40"),
            ("postgresql://user:geheim@host/db?no_such_option=1", "cannot be understood"),
            ("host=localhost password='geheim", "cannot be understood"),
            ("", "must be a str or a path"),
            (None, "must be a str or a path"),
            (b"chats.db", "must be a str or a path"),
        ],
    )
    def test_what_cannot_be_meant(self, tmp_path: Path, given: Any, told: str) -> None:
        for opened in (open_saver, aopen_saver):
            with pytest.raises(ConfigError) as caught:
                opened(given)
            assert told in str(caught.value)
            for part in ("geh", "eim"):
                assert part not in str(caught.value)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert not list(tmp_path.iterdir())

    def test_options_of_the_other_database(self) -> None:
        with pytest.raises(TypeError, match="max_size"):
            open_saver("sqlite://", max_size=3)

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("postgresql://user:geheim@host:5432/db", "postgresql://user:***@host:5432/db"),
            (
                "postgresql://user:ge@he/im@host/db?sslpassword=geheim&a=1",
                "postgresql://user:***@host/db?sslpassword=***&a=1",
            ),
            ("postgresql://user@host/db", "postgresql://user@host/db"),
            ("host=h password='ge heim' user=u", "host=h password=*** user=u"),
            ("host=h password=geheim", "host=h password=***"),
            ("sqlite:///chats.db", "sqlite:///chats.db"),
        ],
    )
    def test_masks(self, given: str, shown: str) -> None:
        assert masked(given) == shown

    def test_a_driver_that_is_not_there(self, tmp_path: Path) -> None:
        program = (
            "import sys; sys.modules['psycopg'] = None\n"
            "import langgraph_checkpoint_dual as d\n"
            "with d.open_saver('sqlite://') as saver: saver.setup()\n"
            "try: d.open_saver('postgresql://u:geheim@localhost/db')\n"
            "except d.errors.ConfigError as exc: print(exc)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert "pip install 'psycopg[binary,pool]'" in done.stdout, done.stderr
        assert SECRET not in done.stdout + done.stderr


class TestSettings:
    async def test_environment(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHECKPOINTER_URL", url)
        monkeypatch.setenv("CHECKPOINTER_PREFIX", "env_")
        monkeypatch.setenv("CHECKPOINTER_PG_SCHEMA", "Chats")
        monkeypatch.setenv("CHECKPOINTER_MAX_SIZE", "3")
        monkeypatch.setenv("CHECKPOINTER_RESPONSE_TIMEOUT", "none")
        monkeypatch.setenv("CHECKPOINTER_HISTORY", "latest")
        settings = CheckpointerConfig()
        assert (settings.response_timeout, settings.max_size, settings.min_size) == (None, 3, 1)
        with settings.create() as saver:
            await put(await used(saver), (await saver.aget_tuple(config())).config, {"n": 2})
            assert len(list(saver.list(config()))) == 1
            assert saver.conn.max_size == 3
        async with settings.acreate(prefix="other_") as asaver:
            await used(asaver)
        with PostgresSaver(url, schema="Chats", prefix="env_") as same:
            assert same.get_tuple(config()) is not None

    async def test_a_password_apart(self, postgres_uri: str) -> None:
        found = conninfo_to_dict(postgres_uri)
        password = found.pop("password", None) or SECRET  # the server may not ask
        settings = CheckpointerConfig(url="postgresql://?" + urlencode(found, quote_via=quote), password=password)
        with settings.create() as saver:
            assert saver.conn.kwargs["password"] == password
            await used(saver)

    async def test_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHECKPOINTER_PREFIX", "env_")
        (tmp_path / ".env").write_text("CHECKPOINTER_URL=sqlite:///from_env.db\nCHECKPOINTER_PREFIX=file_\n")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "checkpointer_url").write_text("sqlite:///from_secrets.db")
        (tmp_path / "service.toml").write_text('[app.checkpointer]\nurl = "sqlite:///from_toml.db"\ntimeout = 5\n')
        (tmp_path / "service.json").write_text(json.dumps({"url": "sqlite:///from_json.db", "fence": True}))
        sources = {
            "from_env.db": CheckpointerConfig(_env_file=".env"),
            "from_secrets.db": CheckpointerConfig(_secrets_dir="run"),
            "from_toml.db": CheckpointerConfig.from_file("service.toml", table="app.checkpointer"),
            "from_json.db": CheckpointerConfig.from_file(tmp_path / "service.json"),
        }
        for name, settings in sources.items():
            async with settings.acreate() as saver:
                await used(saver)
            assert "env_items" in tables(name)
        assert sources["from_toml.db"].timeout == 5
        assert sources["from_json.db"].fence

    @pytest.mark.parametrize("given", ["nothing.yaml", "service.toml"])
    def test_files_that_do_not_fit(self, tmp_path: Path, given: str) -> None:
        (tmp_path / given).write_text("url = 'sqlite://'")
        with pytest.raises(ConfigError):
            CheckpointerConfig.from_file(given, table="checkpointer")

    @pytest.mark.parametrize(
        ("name", "text"), [("a.toml", f'url = "{SECRET}'), ("a.json", f'{{"url": "{SECRET}'), ("b.json", "7")]
    )
    def test_files_that_cannot_be_understood(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name) as caught:
            CheckpointerConfig.from_file(tmp_path / name)
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({}, "url: Field required"),
            ({}, "CHECKPOINTER_URL"),
            ({"url": "mysql://u:geheim@h/d"}, "no saver for mysql"),
            ({"url": "sqlite://", "max_size": 3}, "max_size: not for sqlite"),
            ({"url": "sqlite://", "password": SECRET}, "password: not for sqlite"),
            ({"url": "postgresql://u:geheim@h/d", "synchronous": "FULL"}, "synchronous: not for postgres"),
            ({"url": "postgresql://u:geheim@h/d", "max_size": SECRET}, "max_size"),
            ({"url": "postgresql://u:geheim@h/d", "history": SECRET}, "history"),
            ({"url": "sqlite://", "geheimnis": SECRET}, "Extra inputs are not permitted"),
            ({"url": [SECRET]}, "url"),
        ],
    )
    def test_settings_that_cannot_be_meant(self, given: Any, told: str) -> None:
        with pytest.raises(ConfigError) as caught:
            CheckpointerConfig(**given)
        assert told in str(caught.value)
        assert "geheim'" not in repr(caught.value)
        assert SECRET not in str(caught.value).replace("geheimnis", "")
        assert caught.value.__suppress_context__

    def test_passwords_are_never_shown(self) -> None:
        settings = CheckpointerConfig(url=f"postgresql://user:{SECRET}@host/db?sslpassword={SECRET}", password=SECRET)
        for shown in (
            repr(settings), str(settings), f"{settings}", str(settings.url), repr(settings.url),
            str(settings.model_dump()), str(settings.model_dump(mode="json")), settings.model_dump_json(),
            str(settings.__repr_args__()),
            json.dumps(CheckpointerConfig.model_json_schema()), repr(copy.deepcopy(settings)),
            repr(pickle.loads(pickle.dumps(settings))), repr(settings.acreate()),
        ):  # fmt: skip
            assert SECRET not in shown
        assert "user:***@host" in repr(settings)
        assert target(settings.url.get_secret_value()).place.count(SECRET) == 2

    def test_settings_do_not_change(self) -> None:
        settings = CheckpointerConfig(url="sqlite://")
        with pytest.raises(ValueError, match="frozen"):
            settings.prefix = "other_"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("pydantic_settings", "config", "from langgraph_checkpoint_dual import CheckpointerConfig"),
        ("opentelemetry", "otel", "import langgraph_checkpoint_dual.otel"),
    ],
)
def test_an_extra_that_is_not_installed(package: str, extra: str, use: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None\ntry:\n    {use}\nexcept ImportError as exc: print(exc)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert f"pip install 'langgraph-checkpoint-dual[{extra}]'" in done.stdout, done.stderr


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    program = (
        "import sys, langgraph_checkpoint_dual as d\n"
        "assert not {'psycopg', 'aiosqlite', 'pydantic_settings'} & sys.modules.keys()\n"
        "with d.open_saver('sqlite://') as saver: pass\n"
        "assert not {'psycopg', 'pydantic_settings'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert {"open_saver", "aopen_saver", "CheckpointerConfig", "Retention"} <= set(langgraph_checkpoint_dual.__all__)
