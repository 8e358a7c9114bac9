//! VirtualOutbound: which of them make which names of a tag set, and who wins a name that several want.

use super::{NamesInput, SERVICE_TAG, Skipped, TagSet, View, Wish, servable};
use crate::resource::{Resource, Spec, Tags, VirtualOutbound, VirtualOutboundConf};
use crate::select::{Precedence, selector_rank};
use crate::template::Compiled;
use crate::vip::{EntryKind, Key};
use snapshot::Origin;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// Parameters and the tags they stand for. The user's page calls one `service` without a tag key: where no other stands
/// for `kuma.io/service`, that one does.
pub fn parameters(conf: &VirtualOutboundConf) -> impl Iterator<Item = (&str, &str)> {
    let declared = conf.parameters.iter().any(|p| p.tag() == SERVICE_TAG);
    conf.parameters.iter().map(move |p| match p.tag() {
        "service" if !declared && p.tag_key.is_empty() => (p.name.as_str(), SERVICE_TAG),
        tag => (p.name.as_str(), tag),
    })
}

/// Whether a VirtualOutbound of the mesh selects by `key` or has a parameter for it.
pub(super) fn asks_for(input: &NamesInput<'_>, key: &str) -> bool {
    input.resources.iter().filter(|resource| resource.meta.mesh == input.mesh).any(|resource| match &resource.spec {
        Spec::VirtualOutbound(vo) => {
            vo.selectors.iter().any(|selector| selector.contains_key(key))
                || vo.conf.parameters.iter().any(|parameter| parameter.tag() == key)
        }
        _ => false,
    })
}

/// Who makes a name, in the order of who has it: the better VirtualOutbound, then the earlier source.
type Order<'a> = (Reverse<Precedence<'a>>, &'a TagSet<'a>);

struct Program<'a> {
    resource: &'a Resource,
    spec: &'a VirtualOutbound,
    host: Compiled,
    port: Compiled,
}

/// Adds an entry for every matching pair of VirtualOutbound and tag set. All matching ones are applied, not only the
/// best; tag sets that are equal in the parameters are one.
pub(super) fn add<'a>(input: &NamesInput<'a>, sets: &'a [TagSet<'a>], view: &mut View) {
    let programs = compile(input, view);
    let mut found: HashMap<(usize, Tags), Order<'_>> = HashMap::new();
    for (number, program) in programs.iter().enumerate() {
        for set in sets {
            let Some(rank) = selector_rank(&program.spec.selectors, &set.tags) else { continue };
            let order = (Reverse(Precedence::new(rank, &program.resource.meta)), set);
            let best = found.entry((number, restricted(&program.spec.conf, &set.tags))).or_insert(order);
            *best = (*best).min(order);
        }
    }
    let mut candidates: Vec<_> = found.into_iter().map(|((number, tags), order)| (order, number, tags)).collect();
    candidates.sort();
    for ((_, set), number, tags) in candidates {
        let Some(program) = programs.get(number) else { continue };
        let meta = &program.resource.meta;
        let (origin, source) = (Origin::new("VirtualOutbound", &meta.mesh, &meta.name), set.source(input.mesh));
        match evaluate(program, &tags) {
            Ok((name, port)) => {
                view.add(Key::new(EntryKind::Fqdn, name), Wish { port, tags, origin, source });
            }
            Err(reason) => {
                let service = tags.get(SERVICE_TAG).cloned().unwrap_or_default();
                view.skipped.push(Skipped { origin, source, reason, service });
            }
        }
    }
}

/// A template that doesn't parse stops its own VirtualOutbound only.
fn compile<'a>(input: &NamesInput<'a>, view: &mut View) -> Vec<Program<'a>> {
    let mut programs = Vec::new();
    for resource in input.resources.iter().filter(|resource| resource.meta.mesh == input.mesh) {
        let Spec::VirtualOutbound(spec) = &resource.spec else { continue };
        match (Compiled::new(&spec.conf.host), Compiled::new(&spec.conf.port)) {
            (Ok(host), Ok(port)) => programs.push(Program { resource, spec, host, port }),
            (Err(reason), _) | (_, Err(reason)) => {
                let origin = Origin::new("VirtualOutbound", input.mesh, &resource.meta.name);
                view.skipped.push(Skipped { source: origin.clone(), origin, reason, service: String::new() });
            }
        }
    }
    programs.sort_by_key(|program| &program.resource.meta.name);
    programs
}

/// The tags that the parameters stand for, and the service always: what the outbound's endpoints must carry.
fn restricted(conf: &VirtualOutboundConf, tags: &Tags) -> Tags {
    let keys = parameters(conf).map(|(_, tag)| tag).chain([SERVICE_TAG]);
    keys.filter_map(|key| tags.get_key_value(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn evaluate(program: &Program<'_>, tags: &Tags) -> Result<(String, u16), String> {
    let data: BTreeMap<String, String> = parameters(&program.spec.conf)
        .filter_map(|(name, tag)| tags.get(tag).map(|value| (name.to_string(), value.clone())))
        .collect();
    let failed = |what: &str, error: String| format!("Failed evaluating {what} template: {error}");
    let host = program.host.host(&data).and_then(|host| servable(&host)).map_err(|e| failed("host", e))?;
    let port = program.port.port(&data).map_err(|e| failed("port", e))?;
    Ok((host, port))
}
