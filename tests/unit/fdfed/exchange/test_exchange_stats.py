from fdfed.exchange import ExchangeStats, StatsRecorder


def test_counters_add_up_and_start_anew_once_taken() -> None:
    recorder = StatsRecorder()
    for milliseconds in (1, 2, 3):
        recorder.answered(peers=2, seconds=milliseconds / 1e3, bytes_up=10, bytes_down=20)
    recorder.answered(peers=0, seconds=0.004, bytes_up=10, bytes_down=20)
    recorder.dropped(bytes_up=10)
    stats = recorder.take()
    assert (stats.steps, stats.answered, stats.dropped) == (5, 4, 1)
    assert stats.peers_mean == 6 / 4
    assert (stats.bytes_up, stats.bytes_down) == (50, 80)
    # Between 2 and 3 ms; p99 of four values lies 0.97 of the way from the third to the last.
    assert abs(stats.swap_ms_p50 - 2.5) < 1e-9
    assert abs(stats.swap_ms_p99 - 3.97) < 1e-9
    assert recorder.take() == ExchangeStats()


def test_a_round_without_an_answer_has_finite_numbers() -> None:
    recorder = StatsRecorder()
    recorder.dropped()
    assert recorder.take() == ExchangeStats(steps=1, dropped=1)


def test_the_age_of_replies_is_reported_as_mean_and_maximum_over_answered_steps() -> None:
    recorder = StatsRecorder()
    for age in (0, 1, 5):
        recorder.answered(peers=1, seconds=0.0, bytes_up=0, bytes_down=0, staleness=age)
    recorder.dropped()
    stats = recorder.take()
    assert (stats.staleness_mean, stats.staleness_max) == (2.0, 5)
    assert recorder.take() == ExchangeStats()
