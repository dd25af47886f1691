"""Which replica is to serve which study: spread evenly, agreed without talking, moved as little as can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from study_operator.model.placement import group_key, lock_key, owner, share
from study_operator.model.study import StudyKey

MEMBERS = st.sets(st.integers(1, 2**31 - 1), min_size=1, max_size=12)
STUDIES = st.sets(st.builds(StudyKey, st.text(max_size=8), st.text(max_size=8)), max_size=40)


@given(MEMBERS, STUDIES)
def test_each_study_belongs_to_one_member_whatever_the_order(members, studies):
    shares = [share(sorted(members), member, studies) for member in members]
    assert sum(map(len, shares)) == len(studies)
    assert set().union(*shares) == studies
    assert shares == [share(sorted(members, reverse=True), member, sorted(studies)) for member in members]


@given(MEMBERS, st.integers(1, 2**31 - 1), STUDIES)
def test_a_member_that_comes_or_goes_moves_only_its_own_share(members, another, studies):
    before, after = members - {another}, members | {another}
    moved = {study for study in studies if owner(before, study) != owner(after, study)}
    assert moved == share(after, another, studies)


def test_without_members_nobody_serves():
    assert owner([], StudyKey("team", "digits")) is None


def test_the_spread_over_members_is_even():
    members = [7, 1_000_003, 2**31 - 1]
    counts = Counter(owner(members, StudyKey(f"team-{i % 7}", f"study-{i}")) for i in range(6000))
    # 2,000 each; a standard deviation is 37.
    assert set(counts) == set(members)
    assert all(1850 < count < 2150 for count in counts.values())


@given(st.text(max_size=36), STUDIES)
def test_lock_numbers_fit_their_type_and_differ(cluster, studies):
    keys = {lock_key(cluster, study) for study in studies if not any("/" in name for name in study)}
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert len(keys) == sum(not any("/" in name for name in study) for study in studies)


def test_groups_are_those_of_one_cluster_and_the_same_namespaces():
    assert group_key("a", ["x", "y"]) == group_key("a", ("y", "x"))
    assert len({group_key("a", []), group_key("b", []), group_key("a", ["x"]), group_key("a", ["x", "y"])}) == 4
    assert all(0 <= group_key(str(cluster), []) < 2**31 for cluster in range(1000))
