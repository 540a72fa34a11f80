"""From facts to findings: each fault that keeps a node from its mesh is named, with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from meshlore.mesh.reasons import LanState, Reach, Reason
from meshlore.node.diagnosis import Contact, Facts, Finding, Severity, diagnose

DAY = 86_400
NOW = 1_000 * DAY
HEALTHY = Facts(
    now=NOW,
    not_before=NOW - DAY,
    not_after=NOW + 29 * DAY,
    listen=("/ip4/192.168.1.5/tcp/4810",),
    contacts=(Contact("ben", "/ip4/192.168.1.6/tcp/4810", connected=True),),
    lan=LanState.ON,
)


def contact(reason: Reason | None, **kwargs: object) -> Contact:
    return Contact("ben", "/ip4/192.168.1.6/tcp/4810", reason=reason, **kwargs)  # type: ignore[arg-type]


def found(facts: Facts) -> dict[str, Finding]:
    findings = diagnose(facts)
    assert len({finding.code for finding in findings}) == len(findings)
    for finding in findings:
        assert finding.cause
        assert finding.remedy
        assert "\n" not in finding.cause + finding.remedy
    return {finding.code: finding for finding in findings}


def test_a_node_in_its_mesh_has_no_findings() -> None:
    assert diagnose(HEALTHY) == []


@pytest.mark.parametrize(
    ("change", "code", "severity", "says"),
    [
        ({"now": NOW + 40 * DAY}, "certificate-expired", Severity.ERROR, "expired 11 d ago"),
        ({"now": NOW - 2 * DAY}, "clock-off", Severity.ERROR, "clock is behind"),
        ({"renewal_due": True}, "certificate-not-renewed", Severity.WARNING, "expires in 29 d"),
        ({"clock_ahead_s": (900.0, 901.0, -1.0)}, "clock-off", Severity.ERROR, "15 min ahead of that of most of"),
        ({"clock_ahead_s": (-120.0,)}, "clock-off", Severity.WARNING, "2 min behind that of the member"),
        ({"double": ("/ip4/192.168.1.9/tcp/4810",)}, "copied-home", Severity.ERROR, "192.168.1.9"),
        ({"unusable_listen": (("/ip4/0.0.0.0/tcp/80", "in use"),)}, "cannot-listen", Severity.ERROR, "(in use)"),
        ({"revoked": True}, "membership-revoked", Severity.ERROR, "revoked this device's membership"),
        ({"reach": Reach.HIDDEN}, "not-reachable", Severity.WARNING, "no neighbour relays"),
        ({"listen": ("/ip4/127.0.0.1/tcp/0",)}, "listens-locally", Severity.WARNING, "this machine only"),
    ],
)
def test_what_is_wrong_with_this_device_is_said(
    change: dict[str, object], code: str, severity: Severity, says: str
) -> None:
    findings = found(replace(HEALTHY, **change))  # type: ignore[arg-type]
    assert list(findings) == [code]
    assert findings[code].severity is severity
    assert says in findings[code].cause


def test_clocks_that_differ_little_or_at_one_member_only_are_nothing() -> None:
    assert diagnose(replace(HEALTHY, clock_ahead_s=(30.0, 0.0, 5_000.0))) == []


@pytest.mark.parametrize("reason", [Reason.OWN_EXPIRED, Reason.OWN_EARLY])
def test_a_member_that_dates_our_certificate_otherwise_means_two_clocks_differ(reason: Reason) -> None:
    finding = found(replace(HEALTHY, contacts=(*HEALTHY.contacts, contact(reason))))["clock-off"]
    assert "clocks of both devices" in finding.remedy


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OTHER_MESH])
def test_a_bootstrap_peer_that_is_down_is_a_warning_while_others_are_there(reason: Reason) -> None:
    facts = replace(HEALTHY, contacts=(*HEALTHY.contacts, contact(reason, bootstrap=True)))
    finding = found(facts)["bootstrap-down"]
    assert finding.severity is Severity.WARNING
    assert "ben at /ip4/192.168.1.6/tcp/4810" in finding.cause
    assert "goes on without it" in finding.remedy


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OTHER_MESH])
def test_when_nobody_can_be_reached_the_commonest_cause_decides_what_to_do(reason: Reason) -> None:
    tried = (contact(reason), contact(reason), contact(Reason.SILENT))
    finding = found(replace(HEALTHY, contacts=tried))["isolated"]
    assert finding.severity is Severity.ERROR
    assert "none of the 3 members" in finding.cause
    alone = found(replace(HEALTHY, contacts=(contact(reason),)))["isolated"]
    assert finding.remedy == alone.remedy


def test_a_closed_port_a_silent_device_and_a_lost_route_have_different_remedies() -> None:
    remedies = {
        found(replace(HEALTHY, contacts=(contact(reason),)))["isolated"].remedy
        for reason in (Reason.CLOSED, Reason.SILENT, Reason.NO_ROUTE, Reason.NO_NAME, Reason.OTHER_PEER)
    }
    assert len(remedies) == 5


def test_a_member_that_was_not_tried_yet_is_no_failure() -> None:
    assert diagnose(replace(HEALTHY, contacts=(contact(None), contact(Reason.CLOSED)))) == []


def test_the_address_of_another_mesh_is_an_error_only_for_a_node_that_is_alone() -> None:
    other = contact(Reason.OTHER_MESH, bootstrap=True)
    assert found(replace(HEALTHY, contacts=(*HEALTHY.contacts, other)))["wrong-mesh"].severity is Severity.WARNING
    alone = found(replace(HEALTHY, contacts=(other,)))
    assert alone["wrong-mesh"].severity is Severity.ERROR
    assert "bootstrap-down" not in alone


def test_a_node_that_knows_nobody_is_told_how_to_meet_somebody() -> None:
    findings = found(replace(HEALTHY, contacts=(), lan=LanState.NO_MULTICAST))
    assert list(findings) == ["no-addresses", "no-multicast"]
    assert "meshlore invite" in findings["no-addresses"].remedy
    assert "bootstrap" in findings["no-multicast"].remedy


def test_missing_multicast_is_no_matter_to_a_node_that_has_found_others() -> None:
    assert diagnose(replace(HEALTHY, lan=LanState.NO_MULTICAST)) == []


def test_errors_come_before_warnings() -> None:
    facts = replace(HEALTHY, now=NOW + 40 * DAY, contacts=(), lan=LanState.NO_MULTICAST)
    severities = [finding.severity for finding in diagnose(facts)]
    assert severities == [Severity.ERROR, Severity.WARNING, Severity.WARNING]


def test_a_finding_survives_its_way_as_json() -> None:
    for finding in diagnose(replace(HEALTHY, contacts=())):
        assert Finding.from_map(finding.to_map()) == finding
