"""The best loss and score, and the count that stops a run early."""

from dialog_trainer.training.early_stopping import BestTracker

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


def test_bad_validations_count_in_a_row():
    best = BestTracker()
    for step, ((loss, score, counts), (better_loss, better_score, bad)) in enumerate(STORY, start=1):
        assert best.update(step, loss, score, counts) == (better_loss, better_score)
        assert best.bad_validations == bad
    assert (best.loss, best.loss_step, best.score, best.score_step) == (1.9, 7, 0.2, 4)


def test_the_lowest_loss_decides_between_equal_scores():
    best = BestTracker()
    story = [(3.0, 0.0), (2.0, 0.0), (2.5, 0.0), (2.4, 0.5), (2.2, 0.5), (2.3, 0.5)]
    bad, better, ties = [], [], []
    for step, (loss, score) in enumerate(story, start=1):
        better.append(best.update(step, loss, score, counts=True)[1])
        bad.append(best.bad_validations)
        ties.append(best.score_ties)
    assert better == [True, True, False, True, True, False]
    assert bad == [0, 0, 1, 0, 1, 2]  # an equal score is no improvement
    assert ties == [0, 1, 2, 0, 1, 2]
    assert (best.score, best.score_step, best.score_loss, best.loss_step) == (0.5, 5, 2.2, 2)


def test_a_run_of_an_earlier_version_keeps_the_first_of_equal_scores():
    best = BestTracker(loss=2.0, loss_step=3, score=0.0, score_step=1)
    assert best.update(4, loss=1.0, score=0.0, counts=True) == (True, False)
    assert best.score_step == 1


def test_forgotten_best_is_replaced_and_the_other_stays():
    best = BestTracker(loss=1.0, loss_step=3, score=0.5, score_step=4, bad_validations=2)
    best.forget_score(7)
    assert (best.loss, best.loss_step, best.score, best.score_step) == (1.0, 3, None, 7)
    assert best.update(8, loss=1.5, score=0.1, counts=True) == (False, True)
    best.forget_loss(9)
    assert best.update(10, loss=2.0, score=0.0, counts=True) == (True, False)
