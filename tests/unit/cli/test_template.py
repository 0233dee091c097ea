"""The part of Go's templates that `--format` takes."""

from __future__ import annotations

from typing import Any

import pytest

from podling.cli.template import TemplateError, formatted, parse, render

DOCUMENT: dict[str, Any] = {
    "Name": "/web",
    "State": {"Pid": 42, "Running": True},
    "Args": ["a", "b"],
    "Labels": {"com.example/x": "y", "z": "1"},
    "Mounts": [{"Source": "/one"}, {"Source": "/two"}],
    "Nothing": [],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.State.Pid}}", "42"),
        ("{{ .State.Running }} {{.Args}} {{.Labels}}", "true [a b] map[com.example/x:y z:1]"),
        ("{{json .State}}", '{"Pid":42,"Running":true}'),
        ('{{index .Labels "com.example/x"}}{{index .Args 1}}', "yb"),
        ("{{range .Mounts}}{{.Source}};{{end}}", "/one;/two;"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "com.example/x=y z=1 "),
        ("{{range $m := .Mounts}}{{$m.Source}}{{$.Name}} {{end}}", "/one/web /two/web "),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .Nothing}}a{{else}}{{if .Args}}b{{end}}c{{end}}d", "bcd"),
        ('{{join .Args ","}} {{len .Mounts}} {{.Name | upper}}', "a,b 2 /WEB"),
        (r"{{.Name}}\t{{.State.Pid}}", "/web\t42"),
        ("x {{- .Name -}} y", "x/weby"),
        ('{{printf "%s-%d" .Name .State.Pid}}{{eq .Name "/web"}}', "/web-42true"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render(parse(template), DOCUMENT) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{.Nope}}", 'at <.Nope>: map has no entry for key "Nope"'),
        ("{{.State.Pid.x}}", 'no entry for key "x"'),
        ("{{range .Args}}", "unexpected EOF"),
        ("{{.Name", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{what .Name}}", 'function "what" not defined'),
        ("{{$x}}", 'undefined variable "$x"'),
        ("{{index .Args 9}}", "error calling index"),
        ("{{.Name | }}", "missing value"),
        ("{{.Name .State}}", "cannot be invoked"),
    ],
)
def test_what_is_wrong_is_named(template: str, words: str) -> None:
    with pytest.raises(TemplateError) as err:
        render(parse(template), DOCUMENT)
    assert words in str(err.value)


def test_lists() -> None:
    rows = [
        {"ID": "1", "Names": "one", "Label": {"a": "b"}.get},
        {"ID": "2", "Names": "two", "Label": {}.get},
    ]
    assert formatted("{{.Names}}", rows, {}) == "one\ntwo\n"
    assert formatted("json", rows, {}) == '{"ID":"1","Names":"one"}\n{"ID":"2","Names":"two"}\n'
    titles = {"ID": "CONTAINER ID", "Names": "NAMES"}
    shown = formatted(r'table {{.ID}}\t{{.Label "a"}}', rows, titles)
    assert shown.splitlines()[0].split() == ["CONTAINER", "ID", "a"]
    assert shown.splitlines()[1].split() == ["1", "b"]
