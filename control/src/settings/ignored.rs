//! Settings of Kuma's control plane that name things which aren't here, and what there is instead. Each is accepted with a warning.

/// Where it stands in the file, its variable, and what to know.
pub(super) const IGNORED: &[(&str, &str, &str)] = &[
    (
        "bootstrapServer.corefileTemplatePath",
        "KUMA_BOOTSTRAP_SERVER_PARAMS_COREFILE_TEMPLATE_PATH",
        "there is no CoreDNS: dnsServer.upstreams and dnsServer.AAAA say what a Corefile was used for",
    ),
    (
        "runtime.universal.vipRefreshInterval",
        "KUMA_RUNTIME_UNIVERSAL_VIP_REFRESH_INTERVAL",
        "virtual IPs follow every change at once",
    ),
    ("ipam.allocationInterval", "KUMA_IPAM_ALLOCATION_INTERVAL", "virtual IPs follow every change at once"),
    (
        "experimental.useTagFirstVirtualOutboundModel",
        "KUMA_EXPERIMENTAL_USE_TAG_FIRST_VIRTUAL_OUTBOUND_MODEL",
        "virtual IPs are stored in one form, whatever their number",
    ),
    (
        "experimental.ingressTagFilters",
        "KUMA_EXPERIMENTAL_INGRESS_TAG_FILTERS",
        "other zones see all tags, so that virtual outbounds work across zones",
    ),
    (
        "experimental.autoReachableServices",
        "KUMA_EXPERIMENTAL_AUTO_REACHABLE_SERVICES",
        "every service is reachable unless reachableServices or reachableBackends of a Dataplane trim them",
    ),
    ("dpServer.hds.interval", "KUMA_DP_SERVER_HDS_INTERVAL", "proxies report what probes found at once"),
    (
        "dpServer.hds.refreshInterval",
        "KUMA_DP_SERVER_HDS_REFRESH_INTERVAL",
        "probes follow every change of a Dataplane at once",
    ),
    (
        "dpServer.hds.checkDefaults.noTrafficInterval",
        "KUMA_DP_SERVER_HDS_CHECK_NO_TRAFFIC_INTERVAL",
        "probes don't depend on traffic",
    ),
];
