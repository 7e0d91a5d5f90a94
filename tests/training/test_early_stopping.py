from dialog_trainer.training.early_stopping import Best

# (loss, score, counts) -> (better loss, better score, bad validations in a row)
STORY = [
    ((2.0, 0.1, True), (True, True, 0)),
    ((2.1, 0.1, True), (False, False, 1)),
    ((2.0, 0.1, True), (False, False, 2)),
    ((2.2, 0.2, True), (False, True, 0)),
    ((2.2, 0.1, False), (False, False, 0)),
    ((2.2, 0.1, True), (False, False, 1)),
    ((1.9, 0.1, True), (True, False, 0)),
]


def test_bad_validations_are_counted_in_a_row_and_only_where_they_count():
    best = Best()
    for step, ((loss, score, counts), (better_loss, better_score, bad)) in enumerate(STORY, start=1):
        assert best.update(step, loss, score, counts) == (better_loss, better_score)
        assert best.bad_validations == bad
    assert (best.loss, best.loss_step, best.score, best.score_step) == (1.9, 7, 0.2, 4)
