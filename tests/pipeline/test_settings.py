import re
from pathlib import Path

import pytest
import yaml

import uae
from uae.io.errors import ConfigError
from uae.measures.answers import ANSWER_METRICS, answer_metrics
from uae.measures.metrics import retrieval_metric_names, retrieval_metrics
from uae.pipeline.settings import dump_settings, load_settings

PARAMS = Path(uae.__file__).parents[1] / "params.yaml"


@pytest.fixture
def values():
    return yaml.safe_load(PARAMS.read_text())


@pytest.fixture
def refused(tmp_path, values):
    """The message for a parameter file that ``change`` has spoilt, or that holds ``text``."""

    def load(change=None, text=None, overrides=()):
        if change:
            change(values)
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(values) if text is None else text)
        with pytest.raises(ConfigError) as caught:
            load_settings(path, overrides)
        return str(caught.value).replace(str(path), "mine.yaml")

    return load


def test_the_projects_own_file_comes_back_whole(values):
    def plain(value):
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    assert plain(dump_settings(load_settings(PARAMS))) == values


def test_overrides_are_yaml_values_and_the_last_one_counts():
    overrides = [
        "train.epochs=9",
        "train.epochs=1",
        "ingest.max_documents=7",
        "candidates.gold=false",
        "evaluate.cutoffs=[1, 3, 5]",
    ]
    settings = load_settings(
        PARAMS, [*overrides, "evaluate.cutoffs=[1, 3, 5]", "models.student=path:a=b", "train.learning_rate=1e-4"]
    )
    assert (settings.train.epochs, settings.ingest.max_documents, settings.candidates.gold) == (1, 7, False)
    assert settings.evaluate.cutoffs == (1, 3, 5)
    assert settings.models.student == "path:a=b"
    assert settings.train.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("train.epoch=1", ["there is no parameter train.epoch; did you mean train.epochs?"]),
        ("trian.epochs=1", ["there is no parameter trian.epochs; did you mean train.epochs?"]),
        ("ingest.split.valid=1", ["there is no parameter ingest.split.valid; did you mean ingest.split.validation?"]),
        ("seed.more=1", ["there is no parameter seed.more"]),
        ("xyzzy=1", ["there is no parameter xyzzy"]),
        ("train.epochs", ["expected KEY=VALUE"]),
        ("=1", ["expected KEY=VALUE"]),
        ("train.epochs=[1", ["the value is not YAML"]),
        ("ingest.path=2024-02-30", ["the value is not YAML; put it in quotes"]),
        ("train={? [a, b] : 1}", ["the value is not YAML"]),
        ("seed=!!timestamp noon", ["the value is not YAML"]),
    ],
)
def test_a_wrong_override_is_quoted_and_corrected(refused, override, fragments):
    message = refused(overrides=[override])
    assert f"--set {override}" in message
    assert all(fragment in message for fragment in fragments)


@pytest.mark.parametrize(
    ("section", "key", "suggestion"),
    [
        (None, "sede", "seed"),
        (None, "validation", "validate"),
        ("train", "epoch", "train.epochs"),
        ("validate", "min_question", "validate.min_questions"),
    ],
)
def test_a_misspelt_key_in_the_file_is_corrected(refused, section, key, suggestion):
    message = refused(lambda values: (values[section] if section else values).update({key: 1}))
    wrong = f"{section}.{key}" if section else key
    assert f"mine.yaml: there is no parameter {wrong}; did you mean {suggestion}?" in message


@pytest.mark.parametrize("key", ["seed", "validate", "train.dropout", "ingest.split.test", "ingest.max_documents"])
def test_a_missing_key_is_named(refused, key):
    def remove(values):
        *parents, last = key.split(".")
        for name in parents:
            values = values[name]
        del values[last]

    assert f"mine.yaml: {key} is missing" in refused(remove)


def test_all_faults_are_named_at_once(refused):
    def spoil(values):
        del values["seed"]
        values["train"].update(epochs=0, epoch=1)

    message = refused(spoil)
    assert all(part in message for part in ("seed is missing", "train.epochs: ", "no parameter train.epoch;"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", "one"),
        ("scope", "paragraph"),
        ("compute.device", "gpu"),
        ("compute.dtype", "int8"),
        ("ingest.format", "csv"),
        ("ingest.max_documents", 0),
        ("ingest.passage_words", 5),
        ("ingest.path", "''"),
        ("ingest.max_documents", "true"),
        ("seed", "true"),
        ("train.learning_rate", "true"),
        ("evaluate.cutoffs", "[true]"),
        ("validate.near_duplicate", 0.04),
        ("train.near_duplicate", 0.04),
        ("promote.model", "''"),
        ("promote.model", "keeper's"),
        ("promote.model", "a/b"),
        ("promote.alias", "''"),
        ("promote.alias", "the best"),
        ("promote.alias", "1"),
        ("train.epochs", 1.5),
        ("train.learning_rate", 0),
        ("train.learning_rate", ".nan"),
        ("train.learning_rate", ".inf"),
        ("train.dropout", 1),
        ("train.warmup", 1.1),
        ("evaluate.cutoffs", "[]"),
        ("evaluate.cutoffs", "[0]"),
        ("evaluate.confidence", 0.5),
        ("evaluate.reader_passages", "[]"),
        ("evaluate.reader_passages", "[1, 0]"),
        ("evaluate.reader_passages", "[1, 3, 1]"),
        ("evaluate.reader_passages", 3),
        ("evaluate.reader_orders", "[]"),
        ("evaluate.reader_orders", "[best_last]"),
        ("evaluate.reader_orders", "[best_first, best_first]"),
        ("evaluate.reader_more_questions", -1),
        ("promote.max_loss", -0.1),
        ("promote.min_gain", ".nan"),
        ("teachers.main.templates", "[]"),
        ("teachers", "{}"),
        ("teachers.main.method", "guess"),
        ("teachers.main.weight", 0),
        ("teachers.main.server", "http://127.0.0.1:8000"),
        ("label.check_questions", -1),
        ("label.batch_tokens", 63),
        ("label.memory_mb", 0),
        ("label.readings_per_part", 0),
        ("utility.answers", "max"),
        ("utility.templates", "best"),
        ("utility.teachers", "rank"),
        ("utility.temperature", 0),
        ("package.bento", "Upper Case"),
        ("train", 1),
    ],
)
def test_an_impossible_value_is_named_with_the_key(refused, key, value):
    message = refused(overrides=[f"{key}={value}"])
    assert f"mine.yaml: {key}" in message
    assert "(it is " in message


def test_split_fractions_must_add_up(refused):
    message = refused(overrides=["ingest.split.test=0.5"])
    assert "ingest.split: " in message
    assert "must add up to 1" in message


@pytest.mark.parametrize("template", ["no place", "{passage} and {passage}", "{answer}"])
def test_a_template_needs_its_place_once(refused, template):
    message = refused(lambda values: values["teachers"]["main"]["templates"][0].update(passage=template))
    assert "teachers.main.templates.0" in message
    assert "passage: must contain {passage} exactly once" in message


SERVER = {
    "url": "http://127.0.0.1:8000/v1", "concurrency": 8, "timeout_s": 60, "batch_pairs": 32, "api": "completions",
    "top_logprobs": 20,
}  # fmt: skip


def judging(**changes) -> dict:
    return {"method": "judgement", "grades": [" No", " Yes"]} | changes


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        (judging(grades=None), "grades: a judgement needs them, worst first"),
        ({"grades": [" No", " Yes"]}, "the other methods take null"),
        (judging(grades=[" Yes"]), "at least 2 items"),
        (judging(grades=[" No", " Yes", " No"]), "grades: each must stand once"),
        ({"method": "query_likelihood"}, "but not where method is query_likelihood"),
    ],
    ids=["no grades", "grades for another method", "one grade", "a grade twice", "the question is told"],
)
def test_what_a_teacher_is_asked_must_fit_its_method(refused, changes, fragment):
    message = refused(lambda values: values["teachers"]["main"].update(changes))
    assert "teachers.main" in message
    assert fragment in message


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"method": "answer_likelihood", "grades": None}, "With api: chat method must be judgement"),
        (
            {"check_templates": [{"passage": "{passage}", "question": "{question}", "answer": "{answer}", "chat": False}]},
            "chat to true",
        ),
        ({"grades": ["1", "2", "3"], "server": SERVER | {"api": "chat", "top_logprobs": 2}}, "below the number of grades"),
        ({"server": SERVER | {"api": "chat", "top_logprobs": 21}}, "less than or equal to 20"),
        ({"server": SERVER | {"api": "assistants"}}, "'completions' or 'chat'"),
    ],
    ids=["method", "plain template", "few log-probs", "many log-probs", "another api"],
)
def test_a_chat_endpoint_must_fit_what_is_asked(refused, changes, fragment):
    main = judging(grades=["No", "Yes"], server=SERVER | {"api": "chat"}, check_templates=[])
    main |= {"templates": [{"passage": "{passage}", "question": "{question}", "answer": "{answer}", "chat": True}]}
    assert fragment in refused(lambda values: values["teachers"]["main"].update(main | changes))


@pytest.mark.parametrize("where", ["templates", "check_templates"])
@pytest.mark.parametrize("question", ["Answer:", "{question} Again: {question}"])
def test_a_template_tells_the_question_once(refused, where, question):
    message = refused(lambda values: values["teachers"]["main"][where][0].update(question=question))
    assert "question must contain {question} exactly once" in message


def test_every_method_has_settings_that_pass(tmp_path, values):
    alone = {"passage": "{passage}\n", "question": "A question about it:", "answer": " {answer}", "chat": False}
    main = values["teachers"]["main"]
    in_chat = main["templates"][0] | {"chat": True}
    values["teachers"] |= {
        "judge": main | judging(weight=0.5),
        "asks_back": main | {"method": "query_likelihood", "templates": [alone], "check_templates": []},
        "served": main | {"server": SERVER},
        "served_judge": main | judging() | {"server": SERVER | {"api": "chat"}, "templates": [in_chat], "check_templates": []},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    settings = load_settings(path)
    assert list(settings.teachers) == sorted(settings.teachers) == ["asks_back", "judge", "main", "served", "served_judge"]
    assert settings.teachers["judge"].grades == (" No", " Yes")
    assert settings.teachers["served"].server.batch_pairs == 32
    assert settings.teachers["main"].server is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("url", "127.0.0.1:8000"), ("url", "file:///etc/passwd"), ("concurrency", 0), ("timeout_s", 0), ("batch_pairs", 0),
     ("api_key", "secret")],
)  # fmt: skip
def test_a_servers_settings_are_checked(refused, key, value):
    server = {"url": "http://127.0.0.1:8000/v1", "concurrency": 8, "timeout_s": 60, "batch_pairs": 32}
    message = refused(lambda values: values["teachers"]["main"].update(server=server | {key: value}))
    assert f"teachers.main.server.{key}" in message


@pytest.mark.parametrize("url", ["ftp://me:tiger@host", "me:tiger@host", "ftp://me:ti@ger@host"])
@pytest.mark.parametrize("spoil", [{}, {"grades": [" Yes"]}, {"method": "judgement"}], ids=["url", "grades", "method"])
def test_a_password_in_an_address_is_not_shown(refused, url, spoil):
    server = {"url": url, "concurrency": 8, "timeout_s": 60, "batch_pairs": 32}
    if spoil:
        server["url"] = url.replace("ftp://", "http://") if "//" in url else f"http://{url}"
    message = refused(lambda values: values["teachers"]["main"].update({"server": server} | spoil))
    assert "teachers.main" in message
    assert not re.search("me:|ti@|tiger|ger@", message)


def test_a_password_in_an_override_is_not_shown(refused):
    message = refused(overrides=["teachers.main.server.ulr=http://me:tiger@host"])
    assert "ulr=http://host: there is no parameter" in message


def test_braces_without_quotes_are_explained(refused):
    message = refused(overrides=["passages.template={text}"])
    assert "passages.template: " in message
    assert "(it is {'text': None}); in YAML { begins a mapping: put the value in quotes" in message


def test_a_rule_of_ours_is_told_without_its_prefix(refused):
    message = refused(overrides=["evaluate.reader_passages=[1, 1]"])
    assert "evaluate.reader_passages: each must stand once (it is " in message


@pytest.mark.parametrize("alias", ["latest", "v1", "V12"])
def test_an_alias_that_mlflow_keeps_for_itself(refused, alias):
    assert "alias: MLflow keeps latest and v1" in refused(overrides=[f"promote.alias={alias}"])


@pytest.mark.parametrize("name", ["Main", "two words", "1st", ""])
def test_a_teachers_name_is_a_plain_word(refused, name):
    message = refused(lambda values: values["teachers"].update({name: values["teachers"]["main"]}))
    assert f"teachers.{name}" in message


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("seed: [1\nscope: x", "is not readable YAML"),
        ("", "holds no parameters"),
        ("- seed", "holds no parameters"),
        ("seed: !!python/object/apply:os.getcwd []", "is not readable YAML"),
        ("seed: 2024-02-30", "is not readable YAML: day is out of range"),
        ("? [a, b]\n: 1", "is not readable YAML: a key must be a word"),
        ("seed: " + "[" * 5000 + "]" * 5000, "is not readable YAML: it is nested too deep"),
    ],
    ids=["broken", "empty", "a list", "code", "no date", "a list for a key", "deep"],
)
def test_a_file_that_holds_no_parameters(refused, text, fragment):
    assert f"mine.yaml {fragment}" in refused(text=text)


def test_broken_yaml_names_the_line(refused):
    assert "line 2" in refused(text="seed: 13\ntrain: {epochs: 1\n")


def test_a_key_given_twice_is_refused(refused):
    """YAML says that keys are unique, and the one that PyYAML drops may be the one that a person has edited."""
    message = refused(text=PARAMS.read_text() + "\nseed: 14\n")
    assert "seed" in message


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_parameter_file_that_is_not_there(tmp_path, name):
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["promote.metric=token_f1"],
            "promote.metric: token_f1 is of answers, which few questions have; it can be guarded. Take",
        ),
        (["promote.guarded=[token_f2]"], "promote.guarded: there is no metric 'token_f2'; did you mean token_f1?"),
        (["promote.metric=mapp"], "promote.metric: there is no metric 'mapp'; did you mean map?"),
        (["promote.metric=MAP"], "promote.metric: there is no metric 'MAP'; did you mean map?"),
        (["promote.guarded=[recal@1]"], "promote.guarded: there is no metric 'recal@1'; did you mean recall@1?"),
        (["evaluate.cutoffs=[1]"], "promote.guarded: there is no metric 'recall@5'; add 5 to evaluate.cutoffs;"),
        (["promote.metric=recall@10"], "promote.metric: there is no metric 'recall@10'; add 10 to evaluate.cutoffs;"),
    ],
)
def test_a_metric_that_the_gate_cannot_measure_is_refused_when_the_file_is_loaded(refused, overrides, message):
    """Not in the second week, when there is a champion to measure."""
    said = refused(overrides=overrides)
    assert said.startswith(f"mine.yaml: {message}")
    assert len(said) < 300


def test_every_metric_of_the_gate_is_one_that_retrieval_or_answers_are_measured_by():
    guarded = f"promote.guarded=[map, mrr, ndcg@10, {', '.join(ANSWER_METRICS)}]"
    settings = load_settings(PARAMS, ["evaluate.cutoffs=[2]", "promote.metric=recall@2", guarded])
    measured = retrieval_metrics({"q": ["p"]}, {"q": ["p"]}, settings.evaluate.cutoffs)
    assert {settings.promote.metric, *settings.promote.guarded} == {*measured, *answer_metrics("yes", ["yes"], ["yes"])}
    assert list(measured) == retrieval_metric_names(settings.evaluate.cutoffs)


def test_settings_cannot_be_changed():
    settings = load_settings(PARAMS)
    with pytest.raises(ValueError, match="frozen"):
        settings.train.epochs = 2
