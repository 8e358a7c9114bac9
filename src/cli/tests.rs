//! Lines of Kuma's documentation, as they are written there.

use super::{Cli, Command, Cp, Dp, Generate, Install, arguments};
use clap::Parser as _;
use std::path::Path;

/// As the shell splits it: `\`-newline is a blank, quotes are taken off.
fn parse(line: &str) -> Command {
    let line = line.replace("\\\n", " ").replace(['"', '\''], "");
    let given = line.split_whitespace().map(Into::into).collect();
    let parsed = Cli::try_parse_from(arguments(given).0);
    parsed.unwrap_or_else(|e| panic!("{line}: {e}")).command
}

#[test]
fn a_token_for_egress_is_made_without_a_zone() {
    let line = "kumactl generate zone-token --valid-for 720h --scope egress";
    let Command::Generate(Generate::ZoneToken { zone, scope, valid_for, .. }) = parse(line) else { panic!() };
    assert_eq!((zone.as_str(), scope, valid_for.as_str()), ("", vec!["egress".to_owned()], "720h"));
}

#[test]
fn an_egress_is_run_as_documented() {
    let line = "kuma-dp run \\\n--proxy-type=egress \\\n--cp-address=https://10.0.0.1:5678 \\\n\
                --dataplane-token-file=/path/to/token \\\n--dataplane-file=/path/to/config";
    let Command::Dp(Dp::Run(args)) = parse(line) else { panic!() };
    assert_eq!((args.proxy_type.as_str(), args.cp_address.as_str()), ("egress", "https://10.0.0.1:5678"));
    assert_eq!(args.dataplane_file.as_deref(), Some(Path::new("/path/to/config")));
    assert!(args.dns_enabled && args.without_meaning.given().is_empty());
}

#[test]
fn a_gateway_is_run_as_documented() {
    let line = "kuma-dp run \\\n  --cp-address=https://localhost:5678/ \\\n  --dns-enabled=false \\\n  \
                --dataplane-token-file=kuma-token-gateway \\\n  --dataplane-file=my-gateway.yaml";
    let Command::Dp(Dp::Run(args)) = parse(line) else { panic!() };
    assert!(!args.dns_enabled);
    assert_eq!(args.dataplane_token_file.as_deref(), Some(Path::new("kuma-token-gateway")));
}

#[test]
fn flags_without_meaning_are_taken_and_named() {
    let line = "kuma-dp run --dns-coredns-config-template-path=/t --dns-prometheus-port=1 --dns-coredns-empty-port=1 --log-output-path /var/log/x";
    let Command::Dp(Dp::Run(args)) = parse(line) else { panic!() };
    let flags: Vec<&str> = args.without_meaning.given().into_iter().map(|(flag, _)| flag).collect();
    assert_eq!(
        flags,
        [
            "--dns-coredns-empty-port",
            "--dns-coredns-config-template-path",
            "--dns-prometheus-port",
            "--log-output-path"
        ]
    );
}

#[test]
fn dns_upstreams_stand_where_a_corefile_template_stood() {
    let line = "kuma-dp run --dns-upstream consul=10.0.0.53:8600,10.0.0.54 --dns-upstream corp.example=10.1.0.53 --dns-disable-aaaa";
    let Command::Dp(Dp::Run(args)) = parse(line) else { panic!() };
    let rules: Vec<String> = args.dns_upstreams.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["consul=10.0.0.53:8600", "10.0.0.54:53", "corp.example=10.1.0.53:53"]);
    assert!(args.dns_no_aaaa);
    let wrong = Cli::try_parse_from(["weir", "dp", "run", "--dns-upstream", "consul"]).unwrap_err().to_string();
    assert!(wrong.contains("write DOMAIN=ADDRESS[:PORT]"), "{wrong}");
}

#[test]
fn a_control_plane_is_installed_as_documented() {
    let line = "kumactl install control-plane \\\n  \
        --env-var \"KUMA_BOOTSTRAP_SERVER_PARAMS_COREFILE_TEMPLATE_PATH=/path/to/mounted-corefile-template\" \\\n  \
        --set \"kuma.controlPlane.extraConfigMaps[0].name=corefile-template\" \\\n  \
        --set \"kuma.controlPlane.extraConfigMaps[0].mountPath=/path/to/mounted-corefile-template/corefile-template\"";
    let Command::Install(Install::ControlPlane(args)) = parse(line) else { panic!() };
    let manifests = crate::manifests::control_plane(&args).unwrap();
    assert!(manifests.warnings.is_empty(), "{:?}", manifests.warnings);
    parse("kumactl install control-plane --egress-enabled");
}

#[test]
fn resources_come_from_stdin() {
    let Command::Apply(args) = parse("kumactl apply -f -") else { panic!() };
    assert_eq!(args.files, ["-"]);
}

#[test]
fn a_control_plane_runs_with_its_log_flags() {
    let line = "kuma-cp run --log-level info --log-max-size 100 -c /etc/kuma.yaml";
    let Command::Cp(Cp::Run { config_file, log_file }) = parse(line) else { panic!() };
    assert_eq!(config_file.as_deref(), Some(Path::new("/etc/kuma.yaml")));
    assert_eq!(log_file.given().len(), 1);
}
