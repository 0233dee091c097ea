import pytest

from podling.api import names


def test_a_bad_name_gets_the_sentence_people_search_for():
    assert names.check_subdomain("Bad_Name") == [
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
        "and must start and end with an alphanumeric character (e.g. 'example.com', regex used for "
        "validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    ]
    assert "(e.g. 'my-name',  or '123-abc', regex" in names.check_label("A")[0]


def test_a_label_with_dots_is_told_so():
    assert names.check_label("a.b") == ["must not contain dots"]


@pytest.mark.parametrize("good", ["a", "a-b", "1", "x" * 63])
def test_good_labels(good):
    assert names.check_label(good) == []


@pytest.mark.parametrize("bad", ["", "-a", "a-", "A", "a_b", "x" * 64, "a\n"])
def test_bad_labels(bad):
    assert names.check_label(bad)


def test_qualified_names():
    assert names.check_qualified_name("app") == []
    assert names.check_qualified_name("example.com/App_1.x") == []
    assert names.check_qualified_name("a/b/c")[0].endswith("(e.g. 'example.com/MyName')")
    assert names.check_qualified_name("/x") == ["prefix part must be non-empty"]
    assert names.check_qualified_name("x/")[0] == "name part must be non-empty"
    assert names.check_qualified_name("a" * 64) == ["name part must be no more than 63 bytes"]


def test_port_names():
    assert names.check_port_name("http-2") == []
    assert names.check_port_name("a--b") == ["must not contain consecutive hyphens"]
    assert names.check_port_name("80") == ["must contain at least one letter (a-z)"]
    assert names.check_port_name("-a") == ["must not begin or end with a hyphen"]


def test_env_and_key_names():
    assert names.check_env_name("my var") == []
    assert names.check_env_name("A=B")
    assert names.check_env_name("") == ["environment variable name must be non-empty"]
    assert names.check_config_key("a.b-c_D") == []
    assert names.check_config_key("..x") == ["must not start with '..'"]
    assert names.check_config_key("a/b")[0].startswith("a valid config key must consist of")


def test_generated_names_fit_a_label():
    name = names.generate_name("web-")
    assert name.startswith("web-")
    assert len(name) == 9
    assert len(names.generate_name("x" * 100)) == 63
