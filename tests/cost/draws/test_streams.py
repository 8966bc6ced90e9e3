from cost.draws.streams import generator_for, seed_for


def test_streams_are_stable_and_apart():
    # A stored value: another one would change every run.
    assert seed_for(0, "draws") == 1069307024163043451
    keys = [(0, "draws"), (1, "draws"), (0, "thinning"), (0, "draws", 1), (0, "draws", 1, 1)]
    assert len({seed_for(*key) for key in keys}) == len(keys)
    assert generator_for(3, "x").random() == generator_for(3, "x").random()
