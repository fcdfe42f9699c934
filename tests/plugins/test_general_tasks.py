"""The guard set `general`: every rule tells a right answer from a wrong one."""

from __future__ import annotations

from collections import Counter

from alignkit_plugins.general_tasks import all_tasks
from alignkit_plugins.rules import score_rules

from alignkit.data.reading.read import read_rows


def test_each_right_answer_has_the_whole_score_and_each_wrong_one_at_most_half() -> None:
    for task in all_tasks():
        right, wrong = (score_rules(list(task.rules), text, row=task.prompt) for text in (task.right, task.wrong))
        assert right == 1 and wrong <= 0.5, (task.template, task.prompt, right, wrong)
        for rule in task.rules:  # a rule that nothing fails would say nothing
            others = (task.wrong, "?!", "word " * 99)
            assert score_rules([rule], task.right, row="") == 1, (task.prompt, rule)
            assert min(score_rules([rule], text, row="") for text in others) < 1, (task.prompt, rule)


def test_it_has_three_hundred_prompts_of_six_kinds_in_ten_templates_each() -> None:
    rows = read_rows("general")
    assert len(rows) == 300 == len({row.id for row in rows})
    assert len({str(row.prompt) for row in rows}) == 300
    assert all(row.reference and row.fields["rules"] for row in rows)
    templates = Counter((row.fields["kind"], row.fields["template"]) for row in rows)
    assert len(templates) == 60 and set(templates.values()) == {5}
    assert set(Counter(kind for kind, _ in templates).values()) == {10}
    assert len({template for _, template in templates}) == 60
