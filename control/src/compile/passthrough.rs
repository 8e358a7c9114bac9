//! What of the world beyond the mesh a proxy may pass on to: the Mesh's switch, or the MeshPassthroughs that are for it
//! (spec/naming.md §7.6). Which of the rows lets a connection pass is the proxy's to find.

use super::rows::Input;
use crate::resource::{
    MatchType, MeshPassthrough, Meta, PassthroughMatch, PassthroughMode, PassthroughProtocol, PassthroughTarget,
    TargetKind,
};
use crate::select;
use crate::settings::Cidr;
use snapshot::{Origin, PassthroughProtocol as Spoken, PassthroughRow, PassthroughTo};
use std::cmp::Reverse;

/// Of a policy that is only tried out: it has no effect.
const EFFECT: &str = "kuma.io/effect";

/// Everything, or these. Of several policies the most specific's mode counts, and the matches of all.
pub(super) fn of(input: Input<'_>) -> (bool, Vec<PassthroughRow>) {
    let mut policies: Vec<(&Meta, &MeshPassthrough)> = input
        .mesh
        .passthroughs()
        .filter(|(meta, _)| meta.labels.get(EFFECT).is_none_or(|effect| effect != "shadow"))
        .filter(|(_, policy)| policy.spec.target_ref.as_ref().is_none_or(|target| is_for(input, target)))
        .collect();
    if policies.is_empty() {
        return (input.mesh.spec.passthrough(), Vec::new());
    }
    let kind = |policy: &MeshPassthrough| policy.spec.target_ref.as_ref().map_or(TargetKind::Mesh, |t| t.kind);
    policies.sort_by_key(|(meta, policy)| (kind(policy), Reverse(&meta.name)));
    let mode = policies.iter().filter_map(|(_, policy)| policy.spec.default.passthrough_mode).next_back();
    match mode.unwrap_or_default() {
        PassthroughMode::All => (true, Vec::new()),
        PassthroughMode::None => (false, Vec::new()),
        PassthroughMode::Matched => {
            let mut rows = Vec::new();
            for (meta, policy) in policies {
                let origin = Origin::new("MeshPassthrough", &input.mesh.name, &meta.name);
                rows.extend(policy.spec.default.append_match.iter().filter_map(|one| row(one, &origin)));
            }
            (false, rows)
        }
    }
}

fn is_for(input: Input<'_>, target: &PassthroughTarget) -> bool {
    if !target.proxy_types.is_empty() && !target.proxy_types.iter().any(|kind| kind == "Sidecar") {
        return false;
    }
    match target.kind {
        TargetKind::Mesh => true,
        TargetKind::MeshSubset => {
            input.world.tag_sets(input.dataplane).iter().any(|tags| select::matches(&target.tags, tags))
        }
        TargetKind::Dataplane if !target.name.is_empty() => target.name == input.name,
        TargetKind::Dataplane => {
            let own = input.mesh.dataplane(input.name).map(|(meta, _)| &meta.labels);
            own.is_some_and(|own| target.labels.iter().all(|(key, value)| own.get(key) == Some(value)))
        }
    }
}

fn row(one: &PassthroughMatch, origin: &Origin) -> Option<PassthroughRow> {
    let to = match one.kind {
        MatchType::Domain => PassthroughTo::Name(one.value.trim_end_matches('.').to_ascii_lowercase()),
        MatchType::Ip => {
            let address: std::net::IpAddr = one.value.parse().ok()?;
            PassthroughTo::Block { address, prefix_bits: if address.is_ipv4() { 32 } else { 128 } }
        }
        MatchType::Cidr => {
            let cidr = Cidr::parse(&one.value)?;
            PassthroughTo::Block { address: cidr.network, prefix_bits: cidr.prefix }
        }
    };
    let protocol = match one.protocol {
        PassthroughProtocol::Tcp | PassthroughProtocol::Mysql => Spoken::Bytes,
        PassthroughProtocol::Tls => Spoken::Tls,
        PassthroughProtocol::Http => Spoken::Http,
        PassthroughProtocol::Http2 | PassthroughProtocol::Grpc => Spoken::Http2,
    };
    Some(PassthroughRow { to, port: one.port, protocol, origin: origin.clone() })
}
