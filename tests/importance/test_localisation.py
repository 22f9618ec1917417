import numpy as np
import pytest
import torch
from torch import nn

from conceptatlas.extraction import split
from conceptatlas.importance.localisation import AGREES, MARGIN, choose_map, strongest
from conceptatlas.importance.maps import concept_maps, peak

SIZE = 32


class Roll(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        return torch.roll(x, (int(x.shape[2] * self.share), int(x.shape[3] * self.share)), (2, 3))


class Colours(nn.Module):
    """Detectors of red and green; what they find is moved `early` before one cut point and `late` before the layer."""

    def __init__(self, early, late):
        super().__init__()
        self.detect = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), Roll(early), nn.AvgPool2d(2))
        self.read = nn.Sequential(Roll(late), nn.AvgPool2d(2))
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.detect[0].weight.copy_(torch.tensor([[1.0, -1, 0], [-1, 1, 0]])[:, :, None, None])

    def forward(self, x):
        return self.fc(self.read(self.detect(x)).mean((2, 3)))


W = torch.eye(2)


def cut(early, late):
    return split(Colours(early, late).eval(), "read.1", input_size=(SIZE, SIZE))


@pytest.fixture
def squares():
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(16, 3, SIZE, SIZE)
    corners = torch.randint(0, SIZE - 8, (16, 2), generator=generator)
    for i, (row, column) in enumerate(corners.tolist()):
        images[i, i % 2, row : row + 8, column : column + 8] = 1.0
    return images, corners


def share_on_square(model, images, corners, method):
    at = peak(concept_maps(model, W, images, method=method), (SIZE, SIZE))
    mine = torch.stack([at[i, i % 2] for i in range(len(images))])
    return float(((mine >= corners) & (mine < corners + 8)).all(dim=1).float().mean())


def test_where_the_layer_reads_beside_the_thing_an_earlier_cut_is_chosen_and_points(squares):
    model = cut(0.0, 0.5)
    choice = choose_map(model, W, squares[0])
    assert share_on_square(model, *squares, "coefficients") == 0.0
    assert "@" in choice.method
    assert share_on_square(model, *squares, choice.method) == 1.0
    assert choice.known.all()
    assert (choice.localisation > choice.chance + 0.3).all()


def test_where_only_the_layer_itself_is_in_place_the_coefficient_map_is_chosen(squares):
    model = cut(0.5, 0.5)  # moved away and moved back
    choice = choose_map(model, W, squares[0], methods=["layercam@detect.3", "normgrad@detect.3", "coefficients"])
    assert choice.method == "coefficients"
    assert share_on_square(model, *squares, choice.method) == 1.0
    assert choice.known.all()


def test_a_layer_that_reads_a_quarter_beside_everywhere_is_mapped_to_where_it_reads(squares):
    model = cut(0.0, 0.25)
    assert model.reading_offset() == pytest.approx((-2.0, -2.0), abs=0.01)
    images, corners = squares
    inside = corners.amax(dim=1) < SIZE - 8 - SIZE // 4  # what is rolled over the border comes back elsewhere
    at = peak(concept_maps(model, W, images), (SIZE, SIZE))[torch.arange(16), torch.arange(16) % 2]
    assert ((at >= corners) & (at < corners + 8))[inside].all()
    assert choose_map(model, W, squares[0], methods=["coefficients"]).known.all()


def test_a_map_that_points_beside_the_thing_is_not_known(squares):
    choice = choose_map(cut(0.0, 0.5), W, squares[0], methods=["coefficients"])
    assert not choice.known.any()
    assert (choice.agreement < 0.2).all()
    assert (choice.localisation < choice.chance + MARGIN).all()


def test_a_map_that_is_right_in_half_of_the_images_beats_chance_and_is_not_known():
    """The layer reads everything half an image away, where half of the images show a second square."""
    images = torch.zeros(4, 3, SIZE, SIZE)
    for i, (row, column) in enumerate([(2, 3), (6, 4), (3, 6), (5, 2)]):
        images[i, 0, row : row + 8, column : column + 8] = 1.0
        if i < 2:
            images[i, 0, row + 16 : row + 24, column + 16 : column + 24] = 1.0
    choice = choose_map(cut(0.0, 0.5), W, images, concepts=[0], methods=["coefficients"])
    assert choice.localisation[0] > choice.chance[0] + MARGIN
    assert not choice.known[0]
    assert choose_map(cut(0.0, 0.5), W, images[:2], concepts=[0], methods=["coefficients"]).known[0]


@pytest.mark.parametrize(("late", "known"), [(0.0, True), (0.5, False)])
def test_a_concept_without_a_peak_is_proven_by_its_region(late, known):
    """Red that fades over the whole image: a small cover hardly changes its strongest tenth."""
    fading = torch.linspace(1.0, 0.0, SIZE) ** 3
    images = torch.zeros(4, 3, SIZE, SIZE)
    images[:, 0] = torch.stack([torch.roll(fading.expand(SIZE, SIZE), 5 * i, 1) for i in range(4)])
    choice = choose_map(cut(0.0, late), W, images, concepts=[0], methods=["coefficients"])
    assert choice.agreement[0] < AGREES
    assert choice.known[0] == known
    assert not choose_map(cut(0.0, late), W, images[:1], concepts=[0], methods=["coefficients"]).known[0]  # one is few


def test_occlusion_steps_in_where_no_other_map_is_proven(squares):
    """The layer and every earlier cut point lie elsewhere: only covering the image can tell."""
    model = cut(0.25, 0.25)
    choice = choose_map(model, W, squares[0])
    if choice.method != "occlusion":  # a cut before the first move is also right
        assert choice.method.split("@")[1] in ("detect.0", "detect.1")
    assert share_on_square(model, *squares, choice.method) > 0.9


def test_a_concept_that_is_everywhere_has_no_place():
    generator = torch.Generator().manual_seed(1)
    images = 0.05 * torch.rand(12, 3, SIZE, SIZE, generator=generator)
    images[:, 0] += 1.0  # red everywhere, green nowhere
    choice = choose_map(cut(0.0, 0.0), W, images)
    assert not choice.known[0]
    assert choice.localisation[0] == pytest.approx(choice.chance[0], abs=MARGIN + 0.05)


def test_a_little_of_the_concept_everywhere_does_not_hide_where_most_of_it_is(squares):
    """As on a transformer's tokens: a third of the mean coefficient lies on the square, nine tenths of the top."""
    images, corners = squares[0].clone(), squares[1]
    images[::2, 0] = images[::2, 0].clamp(min=0.15)
    images[1::2, 1] = images[1::2, 1].clamp(min=0.15)
    choice = choose_map(cut(0.0, 0.0), W, images)
    assert share_on_square(cut(0.0, 0.0), images, corners, choice.method) == 1.0
    assert (choice.localisation > choice.chance + 0.2).all()
    assert choice.known.all()


def test_a_concept_that_no_image_has_is_untested_and_not_known(squares):
    red = squares[0][::2]
    choice = choose_map(cut(0.0, 0.5), W, red)
    assert np.isnan(choice.localisation[1])
    assert np.isnan(choice.chance[1])
    assert np.isnan(choice.agreement[1])
    assert choice.known.tolist() == [True, False]
    nothing = choose_map(cut(0.0, 0.5), W, torch.zeros(3, 3, SIZE, SIZE))
    assert not nothing.known.any()
    assert np.isnan(nothing.localisation).all()


@pytest.mark.parametrize("n", [2, 4])
def test_a_few_images_are_enough(squares, n):
    images, corners = squares
    model = cut(0.0, 0.5)
    choice = choose_map(model, W, images[:n])
    assert share_on_square(model, images, corners, choice.method) == 1.0


def test_only_the_concepts_asked_for_are_tested(squares):
    choice = choose_map(cut(0.0, 0.5), W, squares[0], concepts=[1])
    assert np.isnan(choice.localisation[0])
    assert choice.known.tolist() == [False, True]


def test_the_same_seed_gives_the_same_choice(squares):
    first, second = (choose_map(cut(0.0, 0.5), W, squares[0], seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.chance, second.chance)
    assert first.table.equals(second.table)


def test_one_set_of_covers_serves_every_candidate_and_concept_whatever_the_probe_set(squares):
    images = squares[0]
    every = choose_map(cut(0.0, 0.5), W, images)
    assert every.n_forwards == 6 * 25
    assert every.n_forwards == choose_map(cut(0.0, 0.5), W, torch.cat([images] * 4)).n_forwards
    assert every.n_forwards == choose_map(cut(0.0, 0.5), W, images, concepts=[1], methods=[every.method]).n_forwards


def test_a_concept_that_the_chosen_images_do_not_show_gets_one_of_its_own(squares):
    images = torch.cat([squares[0][::2], squares[0][1:2]])  # eight of red, one of green
    choice = choose_map(cut(0.0, 0.5), W, images, n_images=1)
    assert choice.known.all()
    assert choice.n_forwards == 2 * 25


def test_presence_at_hand_is_used_and_must_fit(squares):
    images = squares[0]
    model = cut(0.0, 0.5)
    pooled = strongest(model.encode(images).positions.detach()).numpy()
    given = choose_map(model, W, images, presence=pooled)
    assert given.method == choose_map(model, W, images).method
    with pytest.raises(ValueError, match="one row per image"):
        choose_map(model, W, images, presence=pooled[:3])


def test_of_candidates_that_are_equally_good_the_first_in_the_list_is_taken(squares):
    methods = ["gradxact@detect.3", "layercam@detect.3", "normgrad@detect.3"]
    for order in (methods, methods[::-1]):
        assert choose_map(cut(0.0, 0.5), W, squares[0], methods=order).method == order[0]


def test_the_table_lists_every_candidate_the_winner_first(squares):
    model = cut(0.0, 0.5)
    choice = choose_map(model, W, squares[0], methods=["coefficients", "layercam@detect.3"])
    assert set(choice.table["method"]) == {"coefficients", "layercam@detect.3"}
    assert choice.table["method"].iloc[0] == choice.method
    assert choice.table["score"].iloc[0] > choice.table["score"].iloc[1]
    assert choice.table["score"].iloc[0] == pytest.approx(choice.agreement.mean(), abs=0.05)
