//! Tables as a person reads them: one line a row. The same text is the proxy's `/snapshot` and the goldens of tests.

use crate::tables::{
    Access, Backend, Endpoint, Forward, Handler, HeaderOps, ListenerRow, Match, PassthroughTo, PathMatch, PathRewrite,
    Role, RouteAction, SniTarget, Tables, TextMatch, UpstreamTls,
};
use std::fmt::{self, Display, Formatter, Write};

impl Display for Tables {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let p = &self.proxy;
        writeln!(f, "proxy {:?} {}/{} zone={} services=[{}]", p.kind, p.mesh, p.name, p.zone, p.services.join(" "))?;
        let i = &p.interception;
        writeln!(
            f,
            "  passthrough={} outbound_port={} inbound_port={}",
            p.passthrough, i.outbound_port, i.inbound_port
        )?;
        for row in &p.passthrough_rows {
            let to = match &row.to {
                PassthroughTo::Block { address, prefix_bits } => format!("{address}/{prefix_bits}"),
                PassthroughTo::Name(name) => name.clone(),
            };
            let port = row.port.map_or("*".into(), |port| port.to_string());
            writeln!(f, "  passthrough to {to} port={port} {:?}  # {}", row.protocol, row.origin)?;
        }
        for probe in &p.probes {
            let (interval, timeout) = (probe.interval_ms, probe.timeout_ms);
            writeln!(f, "  probe {} at {} every {interval} ms, timeout {timeout} ms", probe.inbound, probe.app)?;
        }
        writeln!(f, "  dns domain={} ttl={}s", p.dns.domain, p.dns.ttl_s)?;
        for n in &self.names {
            let v4 = n.v4.map_or("-".into(), |a| a.to_string());
            let v6 = n.v6.map_or("-".into(), |a| a.to_string());
            writeln!(f, "name {} A={v4} AAAA={v6}  # {}", n.name, n.origin)?;
        }
        for l in &self.listeners {
            listener(f, l)?;
        }
        for s in &self.snis {
            sni(f, s)?;
        }
        for s in &self.services {
            writeln!(f, "service {} {:?} {:?} tls={}  # {}", s.name, s.protocol, s.balance, Tls(&s.tls), s.origin)?;
            if s.endpoints.is_empty() {
                writeln!(f, "  no endpoint: {}", s.hint)?;
            }
            for e in s.endpoints.iter() {
                writeln!(f, "  {}", EndpointText(e))?;
            }
        }
        for p in &self.permissions {
            writeln!(f, "permission {} {}  # {}", p.name, AccessText(&p.access), p.origin)?;
        }
        Ok(())
    }
}

fn listener(f: &mut Formatter<'_>, l: &ListenerRow) -> fmt::Result {
    match &l.role {
        Role::Outbound { vip, handler } => {
            writeln!(f, "outbound {}{} {}  # {}", l.address, if *vip { " vip" } else { "" }, kind(handler), l.origin)?;
            handler_lines(f, handler)
        }
        Role::Inbound { captured, service, protocol, app, tls, permission } => {
            let captured = if *captured { " captured" } else { "" };
            writeln!(
                f,
                "inbound {}{captured} {service} {protocol:?} tls={tls:?} app={app} permission={permission}  # {}",
                l.address, l.origin
            )
        }
        Role::Gateway { handler, tls, connections_max } => {
            let limit = connections_max.map_or(String::new(), |n| format!(" connections<={n}"));
            writeln!(f, "gateway {} {} tls={tls:?}{limit}  # {}", l.address, kind(handler), l.origin)?;
            handler_lines(f, handler)
        }
        Role::Zone => writeln!(f, "zone {}  # {}", l.address, l.origin),
    }
}

fn sni(f: &mut Formatter<'_>, s: &crate::tables::SniRow) -> fmt::Result {
    match &s.target {
        SniTarget::Passthrough { service } => writeln!(f, "sni {} -> {service}  # {}", s.sni, s.origin),
        SniTarget::Terminate { mesh, permission, handler, protocol } => {
            writeln!(f, "sni {} terminate mesh={mesh} {protocol:?} permission={permission}  # {}", s.sni, s.origin)?;
            handler_lines(f, handler)
        }
    }
}

fn kind(handler: &Handler) -> &'static str {
    match handler {
        Handler::Tcp { .. } => "tcp",
        Handler::Http { .. } => "http",
    }
}

fn handler_lines(f: &mut Formatter<'_>, handler: &Handler) -> fmt::Result {
    match handler {
        Handler::Tcp { backends, .. } => writeln!(f, "  -> {}", Backends(backends)),
        Handler::Http { hosts } => {
            for host in hosts {
                writeln!(f, "  host {}", host.host)?;
                for route in &host.routes {
                    writeln!(f, "    {} -> {}  # {}", MatchText(&route.matches), Action(&route.action), route.origin)?;
                }
            }
            Ok(())
        }
    }
}

struct Backends<'a>(&'a [Backend]);

impl Display for Backends<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, b) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}*{}", b.service, b.weight)?;
        }
        Ok(())
    }
}

struct MatchText<'a>(&'a Match);

impl Display for MatchText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let m = self.0;
        f.write_str(m.method.as_deref().unwrap_or("*"))?;
        match &m.path {
            PathMatch::Exact(p) => write!(f, " ={p}")?,
            PathMatch::Prefix(p) => write!(f, " {p}/")?,
            PathMatch::Regex(p) => write!(f, " ~{p}")?,
        }
        for h in &m.headers {
            write!(f, " {}{}", h.name, Text(&h.value))?;
        }
        for q in &m.queries {
            write!(f, " ?{}{}", q.name, Text(&q.value))?;
        }
        Ok(())
    }
}

struct Text<'a>(&'a TextMatch);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            TextMatch::Exact(v) => write!(f, "={v}"),
            TextMatch::Prefix(v) => write!(f, "={v}*"),
            TextMatch::Regex(v) => write!(f, "~{v}"),
            TextMatch::Present => f.write_str(" present"),
            TextMatch::Absent => f.write_str(" absent"),
        }
    }
}

struct Action<'a>(&'a RouteAction);

impl Display for Action<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            RouteAction::Forward(forward) => forward_text(f, forward),
            RouteAction::Redirect(r) => {
                let part = |o: &Option<String>| o.clone().unwrap_or("*".into());
                let port = r.port.map_or("*".into(), |p| p.to_string());
                write!(f, "redirect {} {}://{}:{port}", r.status, part(&r.scheme), part(&r.host))?;
                r.path.as_ref().map_or(Ok(()), |p| path_text(f, p))
            }
            RouteAction::Respond { status, body } => write!(f, "respond {status} {body:?}"),
        }
    }
}

fn forward_text(f: &mut Formatter<'_>, forward: &Forward) -> fmt::Result {
    write!(f, "{} timeout={}ms", Backends(&forward.backends), forward.timeouts.request_ms)?;
    let filters = &forward.filters;
    header_ops(f, "request", &filters.request)?;
    header_ops(f, "response", &filters.response)?;
    if let Some(host) = &filters.host {
        write!(f, " host={host}")?;
    }
    if filters.host_of_endpoint {
        f.write_str(" host=endpoint")?;
    }
    if let Some(path) = &filters.path {
        path_text(f, path)?;
    }
    filters.mirror.as_ref().map_or(Ok(()), |m| write!(f, " mirror={}@{}ppm", m.service, m.per_million))
}

fn path_text(f: &mut Formatter<'_>, path: &PathRewrite) -> fmt::Result {
    match path {
        PathRewrite::Full(p) => write!(f, " path={p}"),
        PathRewrite::Prefix(p) => write!(f, " prefix={p}"),
    }
}

fn header_ops(f: &mut Formatter<'_>, side: &str, ops: &HeaderOps) -> fmt::Result {
    for name in &ops.remove {
        write!(f, " {side}-{name}")?;
    }
    for (name, value) in &ops.set {
        write!(f, " {side}={name}:{value}")?;
    }
    for (name, value) in &ops.add {
        write!(f, " {side}+{name}:{value}")?;
    }
    Ok(())
}

struct Tls<'a>(&'a UpstreamTls);

impl Display for Tls<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            UpstreamTls::None => f.write_str("none"),
            UpstreamTls::Mesh { mesh, sni, peers, .. } => {
                write!(f, "mesh {mesh} sni={sni} peers=[{}]", peers.join(" "))
            }
            UpstreamTls::External { client } => {
                let verified = if client.ca_pem.is_empty() { "unverified" } else { "verified" };
                write!(f, "external {} {verified}", client.server_name)
            }
        }
    }
}

struct EndpointText<'a>(&'a Endpoint);

impl Display for EndpointText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let e = self.0;
        match &e.address {
            crate::Address::Ip(std::net::IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            crate::Address::Ip(ip) => write!(f, "{ip}")?,
            crate::Address::Name(name) => f.write_str(name)?,
        }
        write!(f, ":{} weight={} priority={} zone={}  # {}", e.port, e.weight, e.priority, e.zone, e.origin)
    }
}

struct AccessText<'a>(&'a Access);

impl Display for AccessText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Access::Deny => f.write_str("deny"),
            Access::AnyOf(list) => {
                f.write_str("allow")?;
                for p in list {
                    f.write_char(' ')?;
                    f.write_str(&if p.uris.is_empty() { "any".into() } else { p.uris.join("&") })?;
                }
                Ok(())
            }
        }
    }
}
