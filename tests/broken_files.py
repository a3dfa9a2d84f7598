"""Broken configurations, one mistake each: what is broken, and the sentence and place that must be told.

A case is a good set of files with one change.  The change carries the mark ``§`` where a reader would point, so that
file, line and column are counted in the text and never taken from the program; key path and sentence are written down
from the rules of the manual, named by ``rule``.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Union

CONFIG = "flusso.yaml"
SCHEMA = "articles.schema.yml"
OTHER = "people.schema.yml"

MARK = "§"

GOOD: Dict[str, str] = {
    CONFIG: """\
source:
  type: postgres
  connection_url: {env: APP_DATABASE_URL}
sinks:
  primary:
    type: opensearch
    url: "http://localhost:9200"
index:
  - name: articles
    schema: articles.schema.yml
  - name: people
    schema: people.schema.yml
""",
    SCHEMA: """\
version: 1
table: articles
primary_key: id
fields:
  - {integer: id, required: true}
  - {keyword: state, required: true}
""",
    OTHER: """\
version: 1
table: people
fields:
  - {text: name, required: false}
""",
}


class Broken(NamedTuple):
    """``files`` are all files as bytes (None: not there); ``line`` and ``column`` from 1, None where no text is;
    ``problems`` is how many sentences the mistake gives in all, the expected one among them.
    """

    title: str
    rule: str
    files: Dict[str, Optional[bytes]]
    file: str
    line: Optional[int]
    column: Optional[int]
    path: Optional[str]
    sentence: str
    problems: int = 1


def broken_files() -> List[Broken]:
    """All of them, the same at every call; titles are unique."""
    cases = [*_files(), *_yaml(), *_config(), *_fields(), *_filters(), *_top_of_a_schema(), *_across_files()]
    assert len({case.title for case in cases}) == len(cases), "titles are unique"
    return cases


# -- how a case is made -----------------------------------------------------------------------------------


def _place(marked: str) -> Any:
    """(text without the mark, line, column)."""
    assert marked.count(MARK) == 1, marked
    before, after = marked.split(MARK)
    return before + after, before.count("\n") + 1, len(before) - before.rfind("\n")


def _case(
    title: str, rule: str, file: str, marked: str, path: Optional[str], sentence: str, problems: int = 1
) -> Broken:
    text, line, column = _place(marked)
    files: Dict[str, Optional[bytes]] = {name: good.encode() for name, good in GOOD.items()}
    files[file] = text.encode()
    return Broken(title, rule, files, file, line, column, path, sentence, problems)


def _rule(page: str, rule: str) -> str:
    return f"{page} {rule}" if rule.startswith("§") else rule


def _instead(file: str, old: str, new: str) -> str:
    assert GOOD[file].count(old) == 1, old
    return GOOD[file].replace(old, new)


def _c(rule: str, old: str, new: str, path: Optional[str], sentence: str, problems: int = 1) -> Broken:
    """The config with ``old`` replaced (empty: with ``new`` at its end)."""
    marked = _instead(CONFIG, old, new) if old else GOOD[CONFIG] + new + "\n"
    title = f"config: {new.replace(MARK, '').strip()[:90]!r}" + (f" for {old.strip()[:50]!r}" if old else "")
    return _case(title, _rule("config", rule), CONFIG, marked, path, sentence, problems)


def _source(rule: str, keys: str, path: Optional[str], sentence: str, problems: int = 1) -> Broken:
    return _c(
        rule, "  connection_url: {env: APP_DATABASE_URL}\n", f"  {keys}\n", f"source{path or ''}", sentence, problems
    )


def _sink(keys: str, path: str, sentence: str, rule: str = "§5", problems: int = 1) -> Broken:
    """Further keys of the opensearch sink."""
    return _c(
        rule,
        '    url: "http://localhost:9200"\n',
        f'    url: "http://localhost:9200"\n    {keys}\n',
        f"sinks.primary{path}",
        sentence,
        problems,
    )


def _index(keys: str, path: str, sentence: str, rule: str = "§6", problems: int = 1) -> Broken:
    """Further keys of the second index."""
    return _c(
        rule,
        "    schema: people.schema.yml\n",
        f"    schema: people.schema.yml\n    {keys}\n",
        f"index[1]{path}",
        sentence,
        problems,
    )


def _f(rule: str, field: str, path: str, sentence: str, problems: int = 1) -> Broken:
    """The schema with one more field, the third."""
    marked = GOOD[SCHEMA] + f"  - {field}\n"
    title = f"schema: {field.replace(MARK, '')}"
    return _case(title, f"schema {rule}", SCHEMA, marked, f"fields[2]{path}", sentence, problems)


def _s(rule: str, old: str, new: str, path: Optional[str], sentence: str, problems: int = 1) -> Broken:
    """The schema with ``old`` replaced (empty: with ``new`` at its end)."""
    marked = _instead(SCHEMA, old, new) if old else GOOD[SCHEMA] + new + "\n"
    title = f"schema: {new.replace(MARK, '').strip()[:90]!r}" + (f" for {old.strip()[:50]!r}" if old else "")
    return _case(title, _rule("schema", rule), SCHEMA, marked, path, sentence, problems)


# -- files that are no text, or not there -------------------------------------------------------------------


def _with(file: str, content: Union[bytes, str, None]) -> Dict[str, Optional[bytes]]:
    files: Dict[str, Optional[bytes]] = {name: good.encode() for name, good in GOOD.items()}
    files[file] = content.encode() if isinstance(content, str) else content
    return files


def _files() -> List[Broken]:
    named_at = GOOD[CONFIG].split("\n").index("    schema: articles.schema.yml") + 1
    schema_key = len("    schema: ") + 1
    cases = [
        Broken(
            "no config file", "config §1", _with(CONFIG, None), CONFIG, None, None, None, "cannot be read: No such file"
        ),
        Broken(
            "no schema file",
            "config §9",
            _with(SCHEMA, None),
            CONFIG,
            named_at,
            schema_key,
            "index[0].schema",
            "articles.schema.yml cannot be read: No such file",
        ),
        Broken("a config without a byte", "config §3", _with(CONFIG, b""), CONFIG, 1, 1, None, "got an empty file"),
        Broken(
            "a config of comments", "config §3", _with(CONFIG, b"# later\n"), CONFIG, 1, 1, None, "got an empty file"
        ),
        Broken(
            "a schema without a byte",
            "schema §1",
            _with(SCHEMA, b""),
            SCHEMA,
            1,
            1,
            None,
            "a schema file must be a mapping",
        ),
        Broken(
            "a config in UTF-16",
            "settled §2",
            _with(CONFIG, GOOD[CONFIG].encode("utf-16")),
            CONFIG,
            1,
            1,
            None,
            "is not UTF-8 text",
        ),
    ]
    toml = '[source]\ntype = "postgres"\n\n[[index]]\nname = "users"\n'
    sentence = "this looks like TOML: write the same keys as YAML"
    cases += [
        # YAML stumbles over what follows a list; an assignment before it makes all of it one text.
        Broken("flusso's own TOML", "config §1", _with(CONFIG, toml), CONFIG, 2, 1, None, sentence),
        Broken(
            "TOML that begins with a key",
            "config §1",
            _with(CONFIG, 'prefix = "a"\n' + toml),
            CONFIG,
            1,
            1,
            None,
            sentence,
        ),
    ]
    for what, content, sentence in [
        ("a photograph", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00", "is not UTF-8 text"),
        ("a program", b"\x7fELF\x02\x01\x01\x00\x00\x00", "is not valid YAML: "),
    ]:
        for file in (CONFIG, SCHEMA):
            cases.append(Broken(f"{what} as {file}", "settled §2", _with(file, content), file, 1, 1, None, sentence))
    for file, line in ((CONFIG, "prefix: 'caf"), (SCHEMA, "schema: 'caf")):
        head = GOOD[file] + line
        lines = head.count("\n") + 1
        for what, wrong, sentence in [
            ("latin-1", b"\xe9'\n", "is not UTF-8 text"),
            ("half a character", b"\xc3'\n", "is not UTF-8 text"),
            ("a zero byte", b"\0'\n", "is not valid YAML: "),
            ("a control character", b"\x07'\n", "is not valid YAML: "),
        ]:
            cases.append(
                Broken(
                    f"{what} in {file}",
                    "settled §2",
                    _with(file, head.encode() + wrong),
                    file,
                    lines,
                    len(line) + 1,
                    None,
                    sentence,
                )
            )
    # After letters of two bytes: columns count characters.
    head = GOOD[CONFIG] + "# äöü\nprefix: 'äöü"
    cases.append(
        Broken(
            "a control character after letters of two bytes",
            "settled §2",
            _with(CONFIG, head + "\x07'\n"),
            CONFIG,
            head.count("\n") + 1,
            len("prefix: 'äöü") + 1,
            None,
            "is not valid YAML: ",
        )
    )
    return cases


# -- YAML -------------------------------------------------------------------------------------------------


def _yaml() -> List[Broken]:
    cases: List[Broken] = []

    def both(what: str, addition: str, sentence: str, path: Optional[str] = None, problems: int = 1) -> None:
        for file in (CONFIG, SCHEMA):
            marked = GOOD[file] + addition
            cases.append(_case(f"{what} in {file}", "settled §2", file, marked, path, sentence, problems))

    both("a list that is not closed", "x: [1, 2\ny§: 3\n", "is not valid YAML: ")
    both("a mapping that is not closed", "x: {a: 1\n§", "is not valid YAML: ")
    both("a quotation that is not closed", "x: 'a\n§", "is not valid YAML: found unexpected end of stream")
    both("two colons in a line", "x: y§: z\n", "is not valid YAML: mapping values are not allowed")
    both("a tab as indentation", "x:\n§\ty: z\n", "a tab; YAML is indented with spaces alone")
    both("a tag of Python", "x: §!!python/object/apply:os.system [ls]\n", "the tag")
    both("a tag of our own making", "x: §!secret y\n", "the tag")
    both("an alias of nothing", "x: §*nobody\n", "the alias *nobody names no anchor")
    both("a value that holds itself", "x: &x [§*x]\n", "stands inside its own anchor")
    both("a second document", "§---\nx: 1\n", "holds a second YAML document")
    both("a list as a key", "? §[a]\n: b\n", "a key must be plain text")
    both("lists in lists without end", "x: " + "[" * 199 + "§[" + "]" * 200 + "\n", "is nested deeper than 200 levels")
    both(
        "10,000 lists in each other",
        "x:\n" + "- " * 199 + "§- " + "- " * 9800 + "a\n",
        "is nested deeper than 200 levels",
    )
    both("a number of 2,000 digits", f"x: §{'7' * 2000}\n", "a number of more than 1000 characters")
    both("a number of 9,000 hexadecimal digits", f"x: §0x{'f' * 9000}\n", "a number of more than 1000 characters")
    both("a number of 9,000 octal digits", f"x: §0o{'7' * 9000}\n", "a number of more than 1000 characters")
    for file, again in ((CONFIG, "source"), (SCHEMA, "version")):
        marked = f"{GOOD[file]}§{again}: 1\n"
        cases.append(
            _case(
                f"a key twice in {file}",
                "settled §2",
                file,
                marked,
                None,
                f'the key "{again}" stands here a second time; the first is in line 1',
            )
        )
    marked = GOOD[SCHEMA] + "  - {text: a, required: true, §required: true}\n"
    cases.append(
        _case(
            "a key of a field twice",
            "settled §2",
            SCHEMA,
            marked,
            None,
            'the key "required" stands here a second time; the first is in line 7',
        )
    )
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 4)
    )
    # a3 is 11,111 values, so that the eighth of them, with what went before, is beyond 100,000.
    both("an alias bomb", bomb + "a4: [" + "*a3, " * 9 + "§*a3]\n", "holds more than 100,000 values")
    for ending, text in (("CRLF", "\r\n"), ("CR", "\r")):
        text_of = GOOD[CONFIG] + "on_error: §maybe\n"
        case = _case(
            f"a wrong word after lines that end in {ending}",
            "settled §2",
            CONFIG,
            text_of,
            "on_error",
            "must be stop or skip",
        )
        cases.append(case._replace(files=_with(CONFIG, text_of.replace(MARK, "").replace("\n", text).encode())))
    marked = "on_error: §maybe\n" + GOOD[CONFIG]
    case = _case(
        "a wrong word behind a byte order mark", "settled §2", CONFIG, marked, "on_error", "must be stop or skip"
    )
    cases.append(case._replace(files=_with(CONFIG, b"\xef\xbb\xbf" + marked.replace(MARK, "").encode())))
    # Words of YAML 1.1 are texts.
    for word in ("yes", "no", "on", "off", "y", "True_", "010", "1:20", "2024-01-02"):
        cases.append(
            _source("§4", f"prepare: §{word}", ".prepare", f'must be true or false, got "{word}"')._replace(
                rule="settled §2"
            )
        )
    cases.append(_c("§3", "", "§<<: {on_error: stop}", "<<", 'unknown key "<<"')._replace(rule="settled §2"))
    return cases


# -- the config file ----------------------------------------------------------------------------------------


def _config() -> List[Broken]:
    whole_source = "source:\n  type: postgres\n  connection_url: {env: APP_DATABASE_URL}\n"
    url = '    url: "http://localhost:9200"\n'
    cases = [
        # Root
        _c("§3", whole_source, "§", None, "`source` is missing"),
        _c("§3", whole_source, "§source:\n", None, "`source` is missing")._replace(
            title="config: a source of nothing", line=1, column=1
        ),
        _c("§3", whole_source, "source: §postgres\n", "source", 'must be a mapping, got "postgres"'),
        _c("§3", whole_source, "source: §[a]\n", "source", "must be a mapping, got a list"),
        _c("§1", "", "§sink: {}", "sink", "did you mean `sinks`?"),
        _c("§1", "", "§indexes: []", "indexes", "did you mean `index`?"),
        _c("§1", "", "§Source: {}", "Source", "did you mean `source`?"),
        _c("§1", "", "§'<url>': 1", "<url>", 'unknown key "<url>"'),
        _c("§1", "", "§'[key]': 1", "[key]", 'unknown key "[key]"'),
        _c("§1", "", '§"a\\nb\\e[31m": 1', "a\\nb\\x1b[31m", "unknown key"),
        _c("§3", "", "on_error: §stopp", "on_error", 'must be stop or skip, got "stopp" (did you mean stop?)'),
        _c("§3", "", "on_error: §true", "on_error", "must be stop or skip, got true"),
        _c("§3", "", "on_error: §[stop]", "on_error", "must be stop or skip, got a list"),
        # prefix
        _c("§3", "", f"prefix: §{'a' * 51}", "prefix", "must be at most 50 bytes long"),
        _c("§3", "", "prefix: §Dev_", "prefix", "must be lowercase"),
        _c("§3", "", "prefix: §_dev", "prefix", "must start with a letter or digit"),
        _c("§3", "", "prefix: §-dev", "prefix", "must start with a letter or digit"),
        _c("§3", "", "prefix: §5", "prefix", "must be text, got 5; put it in quotes"),
        _c("§3", "", "prefix: §{a: b}", "prefix", "must be text, got a mapping"),
        *(
            _c("§3", "", f"prefix: §'a{letter}'", "prefix", "must not hold")
            for letter in (" ", ",", ":", '"', "*", "+", "/", "\\", "|", "?", "#", "<", ">")
        ),
        # source
        _c("§4", "source:\n  type: postgres\n", "§source:\n", "source", "`type` is missing"),
        _c("§4", "type: postgres\n", "type: §mysql\n", "source.type", 'must be postgres, got "mysql"'),
        _c("§4", "type: postgres\n", "type: §postgresql\n", "source.type", "did you mean postgres?"),
        _source("§4", "§conection_url: x", ".conection_url", "did you mean `connection_url`?"),
        _source(
            "§4", "connection_url: §5", ".connection_url", "must be a postgresql:// URL, {env: VARIABLE}, or parts"
        ),
        _source("§4", "connection_url: §[a]", ".connection_url", "must be a postgresql:// URL"),
        _source("§4", "connection_url: §true", ".connection_url", "must be a postgresql:// URL"),
        _source("§4", "§connection_url: {host: h}", ".connection_url", "`database` is missing"),
        _source(
            "§4",
            "connection_url: §{env: A, host: h}",
            ".connection_url",
            "must be text, {env: VARIABLE} or {file: PATH}",
        ),
        _source("§4", "connection_url: §{env: }", ".connection_url", "`env` must name a variable"),
        _source("§4", "connection_url: §{env: 5}", ".connection_url", "`env` must name a variable"),
        _source("§4", "connection_url: §{file: ''}", ".connection_url", "`file` must name a file"),
        _source("§4", 'connection_url: §{file: "a\\0b"}', ".connection_url", "`file` must name a file"),
        _source("§4", "connection_url: {§databse: d}", ".connection_url.databse", "did you mean `database`?", 2),
        _source("§4", "connection_url: {database: §5}", ".connection_url.database", "must be text"),
        _source("§4", "connection_url: {database: §''}", ".connection_url.database", "must not be empty"),
        _source("§4", "connection_url: {database: d, host: §[h]}", ".connection_url.host", "must be text"),
        _source("§4", "connection_url: {database: d, port: §'5432'}", ".connection_url.port", "must be a whole number"),
        _source("§4", "connection_url: {database: d, port: §-1}", ".connection_url.port", "must be at least 0"),
        _source("§4", "connection_url: {database: d, port: §65536}", ".connection_url.port", "must be at most 65535"),
        _source("§4", "connection_url: {database: d, password: §5}", ".connection_url.password", "put it in quotes"),
        _source(
            "§4",
            "connection_url: {database: d, password: §{evn: P}}",
            ".connection_url.password",
            "must be text, {env: VARIABLE} or {file: PATH}",
        ),
        _source("§4", "manage_publication: §'true'", ".manage_publication", 'must be true or false, got "true"'),
        _source("§4", "manage_publication: §1", ".manage_publication", "must be true or false, got 1"),
        # sinks
        _c("§5", "sinks:\n", "sinks: §[]\nx:\n", "sinks", "must be a mapping, got a list", 2),
        _c("§5", "    type: opensearch\n" + url, "§", "sinks.primary", "must be a mapping with `type`")._replace(
            line=5, column=11
        ),
        _c(
            "§5",
            "  primary:\n    type: opensearch\n",
            "  §primary:\n",
            "sinks.primary",
            "`type` is missing; a sink is opensearch, stdout or sqlite",
        ),
        _c(
            "§5",
            "type: opensearch\n",
            "type: §elasticsearch\n",
            "sinks.primary.type",
            "must be opensearch, stdout or sqlite",
        ),
        _c("§5", "type: opensearch\n", "type: §opensarch\n", "sinks.primary.type", "did you mean opensearch?"),
        _c("§5", "type: opensearch\n", "type: §{a: b}\n", "sinks.primary.type", "got a mapping"),
        _c(
            "§5",
            "  primary:\n    type: opensearch\n" + url,
            "  §primary:\n    type: opensearch\n",
            "sinks.primary",
            "`url` is missing",
        ),
        _c(
            "§5",
            'http://localhost:9200"\n',
            'http://localhost:9200"\n  s: {type: stdout, §pritty: true}\n',
            "sinks.s.pritty",
            "did you mean `pretty`?",
        ),
        _c(
            "§5",
            'http://localhost:9200"\n',
            'http://localhost:9200"\n  s: {type: stdout, pretty: §yes}\n',
            "sinks.s.pretty",
            "must be true or false",
        ),
        _c(
            "§5",
            'http://localhost:9200"\n',
            'http://localhost:9200"\n  s: {type: stdout, §url: x}\n',
            "sinks.s.url",
            "unknown key",
        ),
        _c("§2", "  primary:\n", "  §my-sink:\n", "sinks.my-sink", "must be a name (letters, digits and _"),
        _c("§2", "  primary:\n", "  §1st:\n", "sinks.1st", "must be a name"),
        _c("§2", "  primary:\n", f"  §{'s' * 64}:\n", f"sinks.{'s' * 60}…", "must be at most 63 bytes long"),
        _c("§2", "  primary:\n", "  §'<opensearch>':\n", "sinks.<opensearch>", "must be a name"),
        _c(
            "§2",
            'http://localhost:9200"\n',
            'http://localhost:9200"\n  §Primary: {type: stdout}\n',
            "sinks.Primary",
            'the sink name "primary" is used twice',
        ),
        _c("§5", url, "    url: §5\n", "sinks.primary.url", "put it in quotes"),
        _c(
            "§5",
            url,
            "    url: §{env: A, file: b}\n",
            "sinks.primary.url",
            "must be text, {env: VARIABLE} or {file: PATH}",
        ),
        _sink("§usrname: a", ".usrname", "did you mean `username`?"),
        _sink("username: §[a]", ".username", "must be text, {env: VARIABLE} or {file: PATH}"),
        _sink("password: §12345", ".password", "put it in quotes"),
        _sink("tls_verify: §no", ".tls_verify", 'must be true or false, got "no"'),
        _sink("batch_size: §-1", ".batch_size", "must be at least 0, got -1"),
        _sink("batch_size: §4294967296", ".batch_size", "must be at most 4294967295"),
        _sink("batch_size: §1.5", ".batch_size", "must be a whole number, got 1.5"),
        _sink("batch_size: §'10'", ".batch_size", "must be a whole number"),
        _sink("max_bytes: §-1", ".max_bytes", "must be at least 0"),
        _sink("max_bytes: §18446744073709551616", ".max_bytes", "must be at most 18446744073709551615"),
        _sink("max_bytes: §10 apples", ".max_bytes", "must be a size such as 32MB"),
        _sink("timeout_secs: §-0.5", ".timeout_secs", "must be at least 0"),
        _sink("timeout_secs: §.nan", ".timeout_secs", "must be a"),
        _sink("timeout_secs: §30s", ".timeout_secs", "must be a number"),
        _sink("max_retries: §4294967296", ".max_retries", "must be at most 4294967295"),
        _sink("max_retries: §-1", ".max_retries", "must be at least 0"),
        _sink("max_retries: §1e400", ".max_retries", "must be a whole number"),
        _sink("pipeline: §''", ".pipeline", "must not be empty"),
        _sink("pipeline: §3", ".pipeline", "must be text"),
        _sink("number_of_shards: §-1", ".number_of_shards", "must be at least 0"),
        _sink("number_of_replicas: §true", ".number_of_replicas", "must be a whole number, got true"),
        _sink("refresh_interval: §[10s]", ".refresh_interval", "must be text"),
        _sink("text_analysis: §ICU", ".text_analysis", 'must be builtin or icu, got "ICU" (did you mean icu?)'),
        _sink("auto_subfields: §~no", ".auto_subfields", "must be true or false"),
        # our own keys
        _sink("concurrency: §0", ".concurrency", "must be at least 1", "settled §3"),
        _sink("ca_file: §''", ".ca_file", "must be a path", "settled §3"),
        _sink('client_key: §"a\\0b"', ".client_key", "must be a path", "settled §3"),
        _c(
            "settled §3",
            'http://localhost:9200"\n',
            'http://localhost:9200"\n  §s: {type: sqlite}\n',
            "sinks.s",
            "`path` is missing",
        ),
        _c(
            "settled §3",
            'http://localhost:9200"\n',
            'http://localhost:9200"\n  s: {type: sqlite, path: x, search: §1}\n',
            "sinks.s.search",
            "must be true or false",
        ),
        _source("settled §3", "slot: §'\"My Slot\"'", ".slot", "must hold lowercase letters, digits and _ only"),
        _source("settled §3", "slot: §my-slot", ".slot", "must be a name"),
        _source("settled §3", f"slot: §{'s' * 64}", ".slot", "must be at most 63 bytes long"),
        _source("settled §3", "publication: §a b", ".publication", "must be a name"),
        _source("settled §3", "publication: §'\"\"'", ".publication", "a quoted name must not be empty"),
        _source("settled §3", "manage_replica_identity: §never", ".manage_replica_identity", "must be true or false"),
        _source(
            "settled §3",
            "on_gap: §rebuilt",
            ".on_gap",
            'must be rebuild or stop, got "rebuilt" (did you mean rebuild?)',
        ),
        _source("settled §3", "on_blind_table: §skip", ".on_blind_table", "must be stop or warn"),
        _source(
            "settled §3",
            "max_retained_wal_bytes: §10XB",
            ".max_retained_wal_bytes",
            "must be a size such as 32MB, 10GB",
        ),
        _source("settled §3", "max_retained_wal_bytes: §0", ".max_retained_wal_bytes", "must be at least 1"),
        _source("settled §3", f"max_retained_wal_bytes: §'{'9' * 400}'", ".max_retained_wal_bytes", "must be at most"),
        _source("settled §3", "on_retained_wal: §give-up", ".on_retained_wal", "did you mean give_up?"),
        _source("settled §3", "statement_timeout_secs: §0", ".statement_timeout_secs", "must be more than 0"),
        _source("settled §3", "lock_timeout_secs: §2s", ".lock_timeout_secs", "must be a number"),
        _source("settled §3", "prepare: §0", ".prepare", "must be true or false, got 0"),
        _source("settled §3", "failover_slot: §[true]", ".failover_slot", "must be true or false, got a list"),
        _c("settled §3", "", "engine: {queue_capacity: §0}", "engine.queue_capacity", "must be at least 1"),
        _c("settled §3", "", "engine: {batch_changes: §4096.5}", "engine.batch_changes", "must be a whole number"),
        _c("settled §3", "", "engine: {batch_bytes: §32 bananas}", "engine.batch_bytes", "must be a size such as 32MB"),
        _c(
            "settled §3",
            "",
            "engine: {max_document_bytes: §true}",
            "engine.max_document_bytes",
            "must be a size such as 32MB",
        ),
        _c("settled §3", "", "engine: {fan_out_documents: §-1}", "engine.fan_out_documents", "must be at least 1"),
        _c("settled §3", "", "engine: {§batch_size: 5}", "engine.batch_size", 'unknown key "batch_size"'),
        _c("settled §3", "", "backfill: {workers: §0}", "backfill.workers", "must be at least 1"),
        _c("settled §3", "", "backfill: {workers: §65}", "backfill.workers", "must be at most 64"),
        _c("settled §3", "", "backfill: {chunk_rows: §many}", "backfill.chunk_rows", "must be a whole number"),
        _c(
            "settled §3",
            "",
            "backfill: {max_rows_per_second: §0}",
            "backfill.max_rows_per_second",
            "must be at least 1",
        ),
        _c("settled §3", "", "backfill: {max_lag_bytes: §''}", "backfill.max_lag_bytes", "must be a size such as 32MB"),
        _c("settled §3", "", "backfill: §5", "backfill", "must be a mapping, got 5"),
        _c("settled §3", "", "quarantine: {limit: §-3}", "quarantine.limit", "must be at least"),
        _c("settled §3", "", "quarantine: {§limits: 3}", "quarantine.limits", "did you mean `limit`?"),
        _c("settled §3", "", "server: {admin_user: §''}", "server.admin_user", "must not be empty"),
        _c("settled §3", "", "server: {admin_password: §1234}", "server.admin_password", "put it in quotes"),
        _index("keep_generations: §-1", ".keep_generations", "must be at least 0", "settled §3"),
        # index
        _c("§6", "index:\n", "index: §5\nx:\n", "index", "must be a list, got 5", 2),
        _c("§6", "  - name: articles\n    schema", "  - §schema", "index[0]", "`name` is missing"),
        _c(
            "§6",
            "  - name: articles\n    schema: articles.schema.yml\n",
            "  - §name: articles\n",
            "index[0]",
            "`schema` is missing",
        ),
        _c("§6", "schema: articles.schema.yml\n", "schema: §5\n", "index[0].schema", "must be text, got 5"),
        _c("§6", "schema: articles.schema.yml\n", "schema: §''\n", "index[0].schema", "must not be empty"),
        _c("§6", "schema: articles.schema.yml\n", 'schema: §"a\\0b"\n', "index[0].schema", "cannot be read"),
        _c("§6", "schema: articles.schema.yml\n", "schema: §.\n", "index[0].schema", "cannot be read: Is a directory"),
        _c("§6", "schema: articles.schema.yml\n", "schema: *§.schema.yml\n", None, "while scanning an alias"),
        _c(
            "§1",
            "schema: articles.schema.yml\n",
            "schema: §'*.schema.yml'\n",
            "index[0].schema",
            "cannot be read: No such file",
        ),
        _c("§6", "schema: articles.schema.yml\n", f"schema: §{'a' * 300}.yml\n", "index[0].schema", "cannot be read"),
        _c("§2", "name: articles\n", "name: §my-articles\n", "index[0].name", "must be a name (letters, digits and _"),
        _c("§2", "name: articles\n", "name: §2nd\n", "index[0].name", "must be a name"),
        _c("§2", "name: articles\n", f"name: §{'n' * 64}\n", "index[0].name", "must be at most 63 bytes long"),
        _c("§2", "name: articles\n", "name: §5\n", "index[0].name", "must be text, got 5; put it in quotes"),
        _c("§1", "name: people\n", "name: §Articles\n", "index[1].name", 'the index name "articles" is used twice'),
        _index("§enable: true", ".enable", "did you mean `enabled`?"),
        _index("enabled: §maybe", ".enabled", "must be true or false"),
        _index("on_error: §abort", ".on_error", "must be stop or skip"),
        _c("§6", "", "  - §articles", "index[2]", 'must be a mapping, got "articles"'),
        # server
        _c("§7", "", "server: {public_address: §localhost:9464}", "server.public_address", "must be IP:port"),
        _c("§7", "", "server: {public_address: §9464}", "server.public_address", "must be IP:port"),
        _c("§7", "", "server: {private_address: §'127.0.0.1'}", "server.private_address", "must be IP:port"),
        _c("§7", "", "server: {private_address: §'127.0.0.1:65536'}", "server.private_address", "must be IP:port"),
        _c("§7", "", "server: {private_address: §'::1:80'}", "server.private_address", "must be IP:port"),
        _c(
            "§7",
            "",
            "server: {§public_adress: '127.0.0.1:1'}",
            "server.public_adress",
            "did you mean `public_address`?",
        ),
    ]
    return cases


# -- the fields of a schema -----------------------------------------------------------------------------------

SCALARS = (
    "text identifier keyword uuid boolean short integer long float double decimal date timestamp binary json".split()
)
#: What each kind needs beside its name, in a good form.
GOOD_KEYS: Dict[str, str] = {
    **{kind: "required: true" for kind in [*SCALARS, "enum", "geo"]},
    "custom": "required: true, postgres: [numeric], opensearch: scaled_float",
    "map": "required: true, values: text",
    "object": "fields: []",
    "belongs_to": "table: people, primary_key: id, fields: []",
    "has_one": "table: images, primary_key: id, foreign_key: article_id, fields: []",
    "has_many": "table: comments, primary_key: id, foreign_key: article_id, fields: []",
    "many_to_many": "table: tags, primary_key: id, through: {table: j, left_key: l, right_key: r}, fields: []",
    "count": "table: comments, foreign_key: article_id",
    "avg": "table: votes, foreign_key: article_id, column: stars",
    "sum": "table: votes, foreign_key: article_id, column: stars, value_type: long",
    "min": "table: votes, foreign_key: article_id, column: stars, value_type: long",
    "max": "table: votes, foreign_key: article_id, column: stars, value_type: long",
    "ids": "table: comments, foreign_key: article_id, element_type: long",
    "constant": "value: 1",
}
#: Kind -> keys it must have (schema.md section 2); `primary_key` is optional here.
NEEDED: Dict[str, str] = {
    **{kind: "required" for kind in [*SCALARS, "enum", "geo"]},
    "custom": "required postgres opensearch",
    "map": "required values",
    "object": "fields",
    "belongs_to": "table fields",
    "has_one": "table foreign_key fields",
    "has_many": "table foreign_key fields",
    "many_to_many": "table through fields",
    "count": "table",
    "avg": "table column",
    "sum": "table column value_type",
    "min": "table column value_type",
    "max": "table column value_type",
    "ids": "table element_type",
    "constant": "value",
}
#: Keys of other kinds, each with a good value, that a kind must refuse.
STRANGE: Dict[str, str] = {
    "text": "variants lat values limit",
    "enum": "values",
    "custom": "transforms variants",
    "geo": "default transforms",
    "map": "default transforms",
    "object": "required column",
    "belongs_to": "foreign_key through order_by limit",
    "has_one": "column through limit",
    "has_many": "column through required",
    "many_to_many": "column foreign_key required",
    "count": "element_type order_by",
    "sum": "element_type limit",
    "avg": "element_type",
    "ids": "column value_type",
    "constant": "required column options",
}
VALUES: Dict[str, str] = {
    "variants": "[a]", "lat": "a", "values": "text", "limit": "1", "transforms": "[trim]", "default": "x",
    "required": "false", "column": "c", "foreign_key": "f", "through": "{table: j, left_key: l, right_key: r}",
    "order_by": "[{column: id}]", "element_type": "long", "value_type": "long", "options": "{}",
}  # fmt: skip


def _without(kind: str, key: str) -> str:
    """The keys of a kind without one of them; braces hold commas, so that splitting needs care."""
    parts: List[str] = [""]
    depth = 0
    for letter in GOOD_KEYS[kind]:
        depth += letter in "[{"
        depth -= letter in "]}"
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    left = [part.strip() for part in parts if not part.strip().startswith(key + ":")]
    return ", ".join([f"§{kind}: a", *left])


def _fields() -> List[Broken]:
    cases: List[Broken] = []
    for kind, needed in NEEDED.items():
        for key in needed.split():
            cases.append(
                _f("§3", f"{{{_without(kind, key)}}}", f".{kind}", f'`{key}` is missing; the {kind} field "a" needs it')
            )
    for kind, keys in STRANGE.items():
        for key in keys.split():
            cases.append(
                _f(
                    "§3",
                    f"{{{kind}: a, {GOOD_KEYS[kind]}, §{key}: {VALUES[key]}}}",
                    f".{key}",
                    f'`{key}` is not a key of the {kind} field "a"',
                )
            )
    for kind in ("text", "enum", "custom", "geo", "map", "belongs_to", "has_many", "many_to_many", "sum", "ids"):
        cases.append(
            _f("§3", f"{{{kind}: a, {GOOD_KEYS[kind]}, §optoins: {{}}}}", ".optoins", "did you mean `options`?")
        )
    junction = "table: j, left_key: l, right_key: r"
    many = "many_to_many: a, table: b, fields: []"
    child = "has_many: a, table: b, foreign_key: f, fields: []"
    cases += [
        _f("§2", "§title", "", 'must be a mapping such as {keyword: name, required: true}, got "title"'),
        _f("§2", "§{}", "", "has no type key"),
        _f("§2", "§{required: true}", "", "has no type key"),
        _f("§2", "§{field: a, required: true}", "", "has no type key"),
        _f("§2", "§{keywrod: a, required: true}", "", "did you mean `keyword` instead of `keywrod`?"),
        _f("§2", "§{hasmany: a, table: b}", "", "did you mean `has_many` instead of `hasmany`?"),
        _f(
            "§2",
            "§{text: a, keyword: b, required: true}",
            "",
            "has 2 type keys (text, keyword); a field has exactly one",
        ),
        _f("§2", "{text: §5, required: true}", ".text", "must be a name, got 5; put it in quotes"),
        _f("§2", "{text: §, required: true}", ".text", "must be a name, got nothing"),
        _f("§2", "{text: §[a], required: true}", ".text", "must be a name, got a list"),
        _f("§2", "{text: §my-title, required: true}", ".text", "must be a field name"),
        _f("§2", "{text: §1st, required: true}", ".text", "must be a field name"),
        _f("§2", "{text: §my.title, required: true}", ".text", "must be a field name"),
        _f("§2", f"{{text: §{'a' * 64}, required: true}}", ".text", "must be at most 63 bytes long"),
        _f("§3", "{text: a, required: §1}", ".required", "must be true or false, got 1"),
        _f("§3", "{text: a, required: §yes}", ".required", 'must be true or false, got "yes"'),
        _f("§3", "{text: a, required: true, column: §my-title}", ".column", "must be a name"),
        _f("§3", "{text: a, required: true, column: §[b]}", ".column", "must be a name, got a list"),
        _f("§3", f"{{text: a, required: true, column: §{'c' * 64}}}", ".column", "must be at most 63 bytes long"),
        _f("§3", "{text: a, required: true, column: §'\"\"'}", ".column", "a quoted name must not be empty"),
        _f("§3", "{text: a, required: true, transforms: §trim}", ".transforms", "must be a list of texts"),
        _f(
            "§3", "{text: a, required: true, transforms: [trim, §upper]}", ".transforms[1]", "must be lowercase or trim"
        ),
        _f("§3", "{text: a, required: true, transforms: [§1]}", ".transforms[0]", "must be text, got 1"),
        _f(
            "§3",
            "{text: a, required: true, default: §[x]}",
            ".default",
            "must be text, a number, true or false, got a list",
        ),
        _f(
            "§3",
            "{text: a, required: true, default: §{x: y}}",
            ".default",
            "must be text, a number, true or false, got a mapping",
        ),
        _f("§3", "{text: a, required: true, default: §!!binary eA==}", "", "the tag")._replace(path=None),
        _f("§3", '{text: a, required: true, default: §"x\\0"}', ".default", "must not hold a zero byte"),
        _f(
            "§3",
            "{text: a, required: true, options: §[x]}",
            ".options",
            "must be a mapping of OpenSearch property settings",
        ),
        _f(
            "§3",
            "{text: a, required: true, options: {boost: §.inf}}",
            ".options.boost",
            "must be a number that JSON can carry",
        ),
        _f("§3", "{enum: a, required: true, variants: §b}", ".variants", "must be a list of texts"),
        _f("§3", "{enum: a, required: true, variants: [b, §'  ']}", ".variants[1]", "a variant must not be blank"),
        _f(
            "§3",
            "{enum: a, required: true, variants: [b, c, §b]}",
            ".variants[2]",
            'the variant "b" stands here a second time',
        ),
        _f("§3", "{enum: a, required: true, variants: [§'b=>c']}", ".variants[0]", "a variant must not hold `=>`"),
        _f(
            "§3",
            '{enum: a, required: true, variants: [§"b\\nc"]}',
            ".variants[0]",
            "a variant must not hold `=>` or a line break",
        ),
        _f("§3", "{enum: a, required: true, variants: [§1]}", ".variants[0]", "must be text, got 1"),
        _f(
            "§3",
            "{custom: a, required: true, postgres: §numeric, opensearch: x}",
            ".postgres",
            "must be a list of texts",
        ),
        _f(
            "§3",
            "{custom: a, required: true, postgres: §[], opensearch: x}",
            ".postgres",
            "must name at least one Postgres type",
        ),
        _f(
            "§3",
            "{custom: a, required: true, postgres: [x], opensearch: §[y]}",
            ".opensearch",
            "must be text, got a list",
        ),
        _f("§3", "{map: a, required: true, values: §json}", ".values", "must be text, identifier, keyword"),
        _f("§3", "{map: a, required: true, values: §boolean}", ".values", "must be text, identifier, keyword"),
        _f("§3", "{map: a, required: true, values: §binary}", ".values", "must be text, identifier, keyword"),
        _f("§3", "{map: a, required: true, values: §txt}", ".values", "did you mean text?"),
        _f("§3", "§{geo: a, required: true, lat: x}", "", 'the geo field "a" needs `lat` and `lon` together'),
        _f("§3", "§{geo: a, required: true, lon: x}", "", 'the geo field "a" needs `lat` and `lon` together'),
        _f(
            "§3",
            "§{geo: a, required: true, lat: x, lon: y, column: z}",
            "",
            "takes `lat` and `lon`, or `column`, not both",
        ),
        _f("§3", "§{geo: a, required: true, lon: y, column: z}", "", "takes `lat` and `lon`, or `column`, not both"),
        _f("§3", "{geo: a, required: true, lat: §5, lon: y}", ".lat", "must be a name, got 5"),
        _f("§3", "{object: a, fields: §{}}", ".fields", "must be a list of fields, got a mapping"),
        _f("§3", "{object: a, fields: [§x]}", ".fields[0]", "must be a mapping such as"),
        _f(
            "§3",
            "{object: a, fields: [{object: b, fields: [{§text: c}]}]}",
            ".fields[0].fields[0].text",
            "`required` is missing",
        ),
        _f("§3", "{belongs_to: a, table: b, fields: [], required: §sometimes}", ".required", "must be true or false"),
        _f("§3", "{belongs_to: a, table: §b.c.d, fields: []}", ".table", "must be a table or schema.table"),
        _f("§3", "{belongs_to: a, table: §5, fields: []}", ".table", "must be a name, got 5"),
        _f(
            "§3",
            "{belongs_to: a, table: b, column: §[x, y], primary_key: id, fields: []}",
            ".column",
            "must list the same number of columns",
        ),
        _f(
            "§3",
            "{belongs_to: a, table: b, primary_key: §[], fields: []}",
            ".primary_key",
            "must name at least one column",
        ),
        _f(
            "§3",
            "{belongs_to: a, table: b, column: [x, §x], fields: []}",
            ".column[1]",
            'the column "x" stands here a second time',
        ),
        _f("§3", f"{{{child}, limit: §ten}}", ".limit", "must be a whole number from 1"),
        _f("§3", f"{{{child}, limit: §-1}}", ".limit", "must be a whole number from 1"),
        _f("§3", f"{{{child}, limit: §9223372036854775808}}", ".limit", "must be a whole number from 1"),
        _f("§3", f"{{{child}, order_by: §id}}", ".order_by", "must be a list such as [{column: id, direction: desc}]"),
        _f("§3", f"{{{child}, order_by: [§id]}}", ".order_by[0]", "must be a mapping with `column` and `direction`"),
        _f("§3", f"{{{child}, order_by: [§{{direction: asc}}]}}", ".order_by[0]", "`column` is missing"),
        _f(
            "§3",
            f"{{{child}, order_by: [{{column: c, direction: §descending}}]}}",
            ".order_by[0].direction",
            "must be asc or desc",
        ),
        _f("§3", f"{{{child}, order_by: [{{column: c, §order: desc}}]}}", ".order_by[0].order", "unknown key"),
        _f("§3", f"{{{child}, references: §[x, y]}}", ".references", "must list the same number of columns"),
        _f("§3", f"{{{many}, through: §j}}", ".through", "must be a mapping with table, left_key and right_key"),
        _f(
            "§3",
            f"{{{many}, §through: {{left_key: l, right_key: r}}}}",
            ".through",
            "`table` is missing; a junction needs",
        ),
        _f(
            "§3",
            f"{{{many}, §through: {{table: j, right_key: r}}}}",
            ".through",
            "`left_key` is missing; a junction needs",
        ),
        _f(
            "§3",
            f"{{{many}, §through: {{table: j, left_key: l}}}}",
            ".through",
            "`right_key` is missing; a junction needs",
        ),
        _f("§3", f"{{{many}, through: {{{junction}, §middle_key: m}}}}", ".through.middle_key", "unknown key"),
        _f(
            "§3",
            f"{{{many}, through: {{table: j, left_key: [l, m], right_key: r, left_references: §[x]}}}}",
            ".through.left_references",
            "must list the same number",
        ),
        _f("§3", "§{count: a, table: b}", "", 'the count field "a" needs exactly one of `foreign_key` and `through`'),
        _f(
            "§3",
            f"§{{count: a, table: b, foreign_key: f, through: {{{junction}}}}}",
            "",
            "needs exactly one of `foreign_key` and `through`",
        ),
        _f("§3", "§{ids: a, table: b, element_type: long}", "", "needs exactly one of `foreign_key` and `through`"),
        _f(
            "§3",
            f"{{count: a, table: b, §references: x, through: {{{junction}}}}}",
            ".references",
            "goes with `foreign_key`",
        ),
        _f(
            "§3",
            "{ids: a, table: b, element_type: long, through: {table: j, left_key: l, right_key: §[r, s]}}",
            ".through.right_key",
            "must be one column",
        ),
        *(
            _f(
                "§3",
                f"{{{op}: a, table: b, foreign_key: f, column: c, value_type: §{word}}}",
                ".value_type",
                "must be text, identifier",
            )
            for op in ("sum", "min", "max")
            for word in ("geo_point", "custom", "number")
        ),
        _f(
            "§3",
            "{ids: a, table: b, foreign_key: f, element_type: §geo_point}",
            ".element_type",
            "must be text, identifier",
        ),
        _f("§3", "{constant: a, value: [1, §.nan]}", ".value[1]", "must be a number that JSON can carry"),
        # What settled.md refuses although flusso loads it
        _f("§3", f"{{{child}, limit: §0}}", ".limit", "must be a whole number from 1, got 0")._replace(
            rule="settled §1"
        ),
        _f("§2", "§{text: id, required: true}", "", 'the field name "id" is taken by the one in line 5')._replace(
            rule="settled §1"
        ),
        _f(
            "§2",
            "{object: o, fields: [{text: x, required: true}, §{date: x, required: true}]}",
            ".fields[1]",
            'the field name "x" is taken by the one in line 7',
        )._replace(rule="settled §1"),
    ]
    return cases


# -- filters --------------------------------------------------------------------------------------------------


def _filter(rule: str, condition: str, path: str, sentence: str) -> Broken:
    return _s(rule, "", f"filters: [{condition}]", f"filters[0]{path}", sentence)


def _filters() -> List[Broken]:
    cases: List[Broken] = []
    for op in ("eq", "neq", "lt", "lte", "gt", "gte", "like", "ilike"):
        cases += [
            _filter(
                "settled §1",
                f"{{column: c, op: {op}, value: §[x]}}",
                ".value",
                f"`{op}` takes one text, number, true or false, got a list",
            ),
            _filter(
                "settled §1",
                f"{{column: c, op: {op}, value: §{{x: y}}}}",
                ".value",
                f"`{op}` takes one text, number, true or false, got a mapping",
            ),
            _filter("§3", f"§{{column: c, op: {op}}}", ".value", f"`{op}` needs a `value`"),
            _filter("§3", f"{{column: c, op: {op}, §value: null}}", ".value", f"`{op}` needs a `value`"),
        ]
    for op in ("in", "not_in"):
        cases += [
            _filter(
                "settled §1", f"{{column: c, op: {op}, value: §[]}}", ".value", f"`{op}` takes a list that is not empty"
            ),
            _filter("§3", f"{{column: c, op: {op}, value: §x}}", ".value", f"`{op}` takes a list, got"),
            _filter(
                "§3", f"{{column: c, op: {op}, value: [x, §[y]]}}", ".value[1]", "must be text, a number, true or false"
            ),
            _filter(
                "§3", f"{{column: c, op: {op}, value: [§null]}}", ".value[0]", "must be text, a number, true or false"
            ),
        ]
    cases += [
        _filter("§3", "{column: c, op: between, value: §5}", ".value", "`between` takes a list, got 5"),
        _filter("§3", "{column: c, op: between, value: §[1]}", ".value", "`between` takes a list of two, got 1"),
        _filter("§3", "{column: c, op: between, value: §[1, 2, 3]}", ".value", "`between` takes a list of two, got 3"),
        _filter("§3", "{column: c, op: §equals, value: 1}", ".op", "must be eq, neq, lt"),
        _filter("§3", "{column: c, op: §notin, value: [1]}", ".op", "did you mean not_in?"),
        _filter("§7", "§{op: eq, value: 1}", "", "`column` is missing; a filter has `column` and `op`, or `raw`"),
        _filter("§7", "§{column: c, value: 1}", "", "`op` is missing; a filter has `column` and `op`, or `raw`"),
        _filter("§7", "{§colum: c, op: is_null}", ".colum", "did you mean `column`?")._replace(problems=2),
        _filter("§7", "{column: §my-column, op: is_null}", ".column", "must be a name"),
        _filter("§7", "§draft", "", "must be a mapping such as {column: state, op: eq, value: live}"),
        _filter("§7", "{column: c, op: is_null, §valeu: 1}", ".valeu", "did you mean `value`?"),
        _s("§7", "", "filters: §{column: c, op: is_null}", "filters", "must be a list of filters, got a mapping"),
        _filter("§7", '{column: c, op: eq, value: §"a\\0b"}', ".value", "must not hold a zero byte"),
        _filter("§7", "{raw: §''}", ".raw", "must be a condition in SQL"),
        _filter("§7", "{raw: §5}", ".raw", "must be a condition in SQL, got 5"),
        _filter("§7", "{raw: a > 1, §column: c}", ".column", 'unknown key "column"'),
        _filter("§7", "{raw: §'(a > 1'}", ".raw", "its parentheses do not match"),
        _filter("§7", '{raw: §"a = \'x"}', ".raw", "is not closed"),
        _filter("§7", "{raw: §'a = $$x'}", ".raw", "a quotation in dollar signs is not closed"),
        _filter("§7", "{raw: §'a /* x'}", ".raw", "a comment is not closed"),
        _filter("§7", "{raw: §'a) OR (b'}", ".raw", "its parentheses do not match"),
        _filter("§7", "{raw: §'a = $1'}", ".raw", "has no parameters"),
        _filter("§7", "{raw: §'a > 1; DROP TABLE t'}", ".raw", "must be one condition"),
        _filter("settled §1", "{raw: a > 1, volatile: §maybe}", ".volatile", "must be true or false"),
        _filter("settled §1", "{column: c, op: is_null, §volatile: true}", ".volatile", "goes with `raw` only"),
    ]
    for condition, culprit in [
        ("at > now()", "now()"),
        ("at > NOW ( )", "now()"),
        ("at > CURRENT_DATE", "CURRENT_DATE"),
        ("at > current_timestamp(3)", "CURRENT_TIMESTAMP"),
        ("at > localtime", "LOCALTIME"),
        ("at > clock_timestamp()", "clock_timestamp()"),
        ("at > pg_catalog.statement_timestamp()", "statement_timestamp()"),
        ("random() > 0.5", "random()"),
        ("timeofday() <> at", "timeofday()"),
        ("age(at) > interval '1 day'", "age()"),
        ("id IN (SELECT id FROM other)", "a sub-select (SELECT)"),
        ("owner = current_user", "CURRENT_USER"),
    ]:
        quoted = condition.replace("'", "''")
        cases.append(
            _filter("settled §1", f"{{raw: §'{quoted}'}}", ".raw", f"{culprit} changes without any row changing")
        )
    # The same wherever a filter stands
    bad = "{column: c, op: in, value: §[]}"
    child = "has_many: a, table: b, foreign_key: f, fields: []"
    cases += [
        _f("§7", f"{{{child}, filters: [{bad}]}}", ".filters[0].value", "`in` takes a list that is not empty"),
        _f(
            "§7",
            f"{{belongs_to: a, table: b, fields: [], filters: [{bad}]}}",
            ".filters[0].value",
            "`in` takes a list that is not empty",
        ),
        _f(
            "§7",
            f"{{count: a, table: b, foreign_key: f, filters: [{bad}]}}",
            ".filters[0].value",
            "`in` takes a list that is not empty",
        ),
        _s(
            "§7",
            "",
            f"soft_delete: {{column: gone, when: [{bad}]}}",
            "soft_delete.when[0].value",
            "`in` takes a list that is not empty",
        ),
    ]
    return cases


# -- the top of a schema file -----------------------------------------------------------------------------------


def _top_of_a_schema() -> List[Broken]:
    fields = "fields:\n  - {integer: id, required: true}\n  - {keyword: state, required: true}\n"
    return [
        _s("§1", "version: 1\n", "§", None, "`version` is missing; write `version: 1`"),
        _s("§3", "version: 1\n", "version: §2\n", "version", "must be 1, got 2"),
        _s("§3", "version: 1\n", "version: §'1'\n", "version", 'must be 1, got "1"'),
        _s("§3", "version: 1\n", "version: §true\n", "version", "must be 1, got true"),
        _s("§1", "version: 1\ntable: articles\n", "§version: 1\n", None, "`table` is missing"),
        _s("§3", "table: articles\n", "table: §my-table\n", "table", "must be a name"),
        _s("§3", "table: articles\n", "table: §[articles]\n", "table", "must be a name, got a list"),
        _s("§3", "table: articles\n", "table: §a.b.c\n", "table", "must be a table or schema.table"),
        _s("settled §2", "table: articles\n", "table: §'\"\".b'\n", "table", "a quoted name must not be empty"),
        _s("settled §2", "table: articles\n", f"table: §'\"{'ü' * 32}\"'\n", "table", "must be at most 63 bytes long"),
        _s("settled §2", "table: articles\n", 'table: §"\\"a\\0b\\""\n', "table", "nor hold a zero byte"),
        _s("§1", "table: articles\n", "table: §tàble\n", "table", "must be a name"),
        _s("§1", "table: articles\n", "table: §\u212aelvin\n", "table", "must be a name"),
        _s("§1", "", "schema: §a.b", "schema", "must be a name"),
        _s("§1", "", "schema: §5", "schema", "must be a name, got 5"),
        _s("§1", "primary_key: id\n", "primary_key: §5\n", "primary_key", "must be a name, got 5"),
        _s("§1", "primary_key: id\n", "primary_key: §[]\n", "primary_key", "must name at least one column"),
        _s(
            "§1",
            "primary_key: id\n",
            "primary_key: [id, §id]\n",
            "primary_key[1]",
            'the column "id" stands here a second time',
        ),
        _s(
            "§1", "primary_key: id\n", "primary_key: [id, §{a: b}]\n", "primary_key[1]", "must be a name, got a mapping"
        ),
        _s(
            "§1",
            "primary_key: id\n",
            f"primary_key: §[{', '.join(f'c{n}' for n in range(33))}]\n",
            "primary_key",
            "must name at most 32 columns",
        ),
        _s("§1", "primary_key: id\n", "§primarykey: id\n", "primarykey", "did you mean `primary_key`?"),
        _s("§1", "", "doc_id: §5", "doc_id", "must be a name, got 5"),
        _s("§1", "", "§filter: []", "filter", "did you mean `filters`?"),
        _s("§1", fields, "§", None, "`fields` is missing")._replace(path="fields", line=1, column=1),
        _s("§1", fields, "fields: §{}\n", "fields", "must be a list of fields, got a mapping"),
        _s("§1", fields, "fields: §all\n", "fields", "must be a list of fields"),
        _s("§8", "", "soft_delete: §gone", "soft_delete", "must be a mapping with `column` or `field`"),
        _s("§8", "", "soft_delete: §{}", "soft_delete", "needs exactly one of `column` and `field`"),
        _s("§8", "", "soft_delete: §{when: []}", "soft_delete", "needs exactly one of `column` and `field`"),
        _s(
            "§8",
            "",
            "soft_delete: §{column: gone, field: state}",
            "soft_delete",
            "needs exactly one of `column` and `field`",
        ),
        _s("§8", "", "soft_delete: {column: §5}", "soft_delete.column", "must be a name, got 5"),
        _s("§8", "", "soft_delete: {column: gone, §wen: []}", "soft_delete.wen", "did you mean `when`?"),
        _s("§8", "", "soft_delete: {column: gone, when: §x}", "soft_delete.when", "must be a list of filters"),
        _s(
            "settled §1",
            "",
            "soft_delete: {field: §gone}",
            "soft_delete.field",
            'no field with a column is named "gone"',
        ),
        _s("settled §1", "", "soft_delete: {field: §stat}", "soft_delete.field", "did you mean `state`?"),
        _s(
            "settled §1",
            fields,
            "fields: [{constant: gone, value: true}]\nsoft_delete: {field: §gone}\n",
            "soft_delete.field",
            'no field with a column is named "gone"',
        ),
        _s(
            "settled §1",
            fields,
            "fields: [{count: n, table: t, foreign_key: f}]\nsoft_delete: {field: §n}\n",
            "soft_delete.field",
            'no field with a column is named "n"',
        ),
    ]


# -- several files at once ----------------------------------------------------------------------------------------


def _across_files() -> List[Broken]:
    """One mistake in each of three files: told in one report, the config's first."""
    first = _case(
        "a mistake in each of three files",
        "config §1",
        CONFIG,
        GOOD[CONFIG] + "on_error: §maybe\n",
        "on_error",
        "must be stop or skip",
        3,
    )
    files = dict(first.files)
    files[SCHEMA] = GOOD[SCHEMA].replace("version: 1", "version: 3").encode()
    files[OTHER] = GOOD[OTHER].replace("text: name", "texts: name").encode()
    disabled = _case(
        "a mistake in the schema of a disabled index",
        "config §1",
        OTHER,
        GOOD[OTHER].replace("version: 1", "version: §3"),
        "version",
        "must be 1",
    )
    with_disabled = dict(disabled.files)
    with_disabled[CONFIG] = (GOOD[CONFIG] + "    enabled: false\n").encode()
    return [first._replace(files=files), disabled._replace(files=with_disabled)]
