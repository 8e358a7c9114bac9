//! TrafficPermission: reading and checking (spec/zones.md §12.1).

use super::TrafficPermission;
use super::common::selectors;
use super::decode::Fields;

pub(super) fn decode(f: &mut Fields<'_>) -> TrafficPermission {
    let (sources, destinations) = (selectors(f, "sources", false), selectors(f, "destinations", false));
    if f.has("conf") {
        f.spot("conf").warn("has no effect since Kuma 1.2", "remove it");
    }
    f.also_known(&["conf"]);
    TrafficPermission { sources, destinations }
}
