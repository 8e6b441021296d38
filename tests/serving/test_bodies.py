"""The types of response bodies and the OpenAPI schema describe the same fields."""

import pytest

from serving import bodies, schema
from serving.recommend import known_users
from serving.skip import schema as skip_schema

PAIRS = [
    (bodies.SegmentBody, schema.Segment),
    (bodies.SignalBody, schema.SignalContribution),
    (bodies.ReasonsBody, schema.Reasons),
    (bodies.DegradedBody, schema.Degraded),
    (bodies.ExperimentBody, schema.ExperimentAssignment),
    (bodies.RecommendationBody, schema.Recommendation),
    (bodies.KnownUserBody, known_users.KnownUser),
    (bodies.KnownRecommendationBody, known_users.KnownRecommendation),
    (bodies.CarouselPlaylistBody, schema.CarouselPlaylist),
    (bodies.CarouselBody, schema.Carousel),
    (bodies.EntityBody, schema.Entity),
    (bodies.NeighbourBody, schema.Neighbour),
    (bodies.NeighbourhoodBody, schema.Neighbourhood),
    (bodies.SearchResultBody, schema.SearchResult),
    (bodies.SearchBody, schema.Search),
    (bodies.ReleaseInfoBody, schema.ReleaseInfo),
    (bodies.RecentPlaysBody, skip_schema.RecentPlaysReport),
    (bodies.SkipPredictionBody, skip_schema.SkipPrediction),
    (bodies.SkipsBody, skip_schema.Skips),
    (bodies.RerankedTrackBody, skip_schema.RerankedTrack),
    (bodies.RerankedBody, skip_schema.Reranked),
]


@pytest.mark.parametrize(("body", "model"), PAIRS, ids=lambda one: one.__name__)
def test_body_and_schema_have_the_same_fields(body, model):
    assert set(body.__annotations__) == set(model.model_fields)


def test_every_body_is_compared():
    parts = {bodies.SignalsBody, bodies.StoreState, bodies.SkipState, bodies.SkipReleaseFields}  # no schema
    defined = {one for one in vars(bodies).values() if isinstance(one, type) and one.__module__ == bodies.__name__}
    assert defined == {body for body, _ in PAIRS} | parts
