//! A reader follows the operators' pages: each `sh` block of a page is run, in order, in a machine that has what the package
//! installs. Blocks that say what they need (`sh needs-misp`) are not.
//!
//! Files go to overlays that end with the lab. apt and systemd are not there: functions of the shell do what the package and
//! its unit do; `cargo xtask package --test` follows the quick start in a machine that has both.

use std::process::{Command, Stdio};

use crate::docs::{Page, workspace};
use crate::harness::{Lab, Run, binary, needs_root, slowness};

/// What stands in for the machine. `$NAIKON` is the program, `$TREE` the repository.
const MACHINE: &str = r#"
set -eu
for place in etc usr; do
    mkdir -p "/run/overlay/$place/upper" "/run/overlay/$place/work"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=/run/overlay/$place/upper,workdir=/run/overlay/$place/work" "/$place"
done
export USER=root
sudo() {
    if [ "$1" = -u ]; then
        user=$2; shift 2
        setpriv --reuid "$user" --regid naikon --init-groups -- "$@"
    else
        "$@"
    fi
}
apt() {
    [ "$1" = install ] || return 1
    groupadd --system naikon
    useradd --system --gid naikon --no-create-home --shell /usr/sbin/nologin naikon
    touch /usr/bin/naikon
    mount --bind "$NAIKON" /usr/bin/naikon
    install -d /etc/naikon /usr/share/naikon /etc/cron.d /etc/systemd/system /usr/lib/systemd/system
    install -d -m 2750 -g naikon /etc/naikon/lists.d /etc/naikon/allow.d
    install -m 0644 "$TREE/packaging/naikon.toml" /etc/naikon/naikon.toml
    install -m 0644 "$TREE/packaging/systemd/naikon.service" /usr/lib/systemd/system/naikon.service
    cp -r "$TREE/lists" "$TREE/packaging/prometheus" "$TREE/packaging/grafana" /usr/share/naikon/
}
stop() {
    [ ! -e /run/naikon.pid ] || kill "$(cat /run/naikon.pid)" 2>/dev/null || true
    wait
    rm -f /run/naikon.pid
}
start() {
    chmod g+x /sys/fs/bpf
    chgrp naikon /sys/fs/bpf
    install -d -m 0700 -o naikon -g naikon /sys/fs/bpf/naikon /var/lib/naikon
    install -d -m 0755 -o naikon -g naikon /run/naikon
    grants=+bpf,+net_admin,+perfmon
    setpriv --reuid naikon --regid naikon --init-groups --inh-caps "$grants" --ambient-caps "$grants" -- \
        /usr/bin/naikon run --config /etc/naikon/naikon.toml >>/run/naikon.log 2>&1 &
    echo $! >/run/naikon.pid
    until curl -fsS http://127.0.0.1:9887/healthz >/dev/null 2>&1; do kill -0 "$(cat /run/naikon.pid)"; done
}
systemctl() {
    case "$*" in
        "restart naikon") stop; start ;;
        "start naikon") start ;;
        daemon-reload) ! command -v systemd-analyze >/dev/null || systemd-analyze verify --man=no naikon.service naikon-feeds.service naikon-feeds.timer ;;
        *) return 1 ;;
    esac
}
finish() {
    code=$?
    set +e
    stop
    naikon detach >/dev/null 2>&1
    [ "$code" = 0 ] || cat /run/naikon.log >&2
    exit "$code"
}
trap finish EXIT
set -x
"#;

/// What a page's reader pastes, for the interfaces of a lab.
fn pasted(page: &str) -> String {
    let fences = Page::read(page).fences();
    let blocks: Vec<&str> =
        fences.iter().filter(|fence| fence.language == "sh").map(|fence| fence.text.as_str()).collect();
    assert!(!blocks.is_empty(), "{page} should have something to paste");
    blocks.join("\n").replace("eth0", "lan0").replace("eth1", "wan0")
}

/// Pastes these pages one after the other into a shell on the gateway.
fn follow(pages: &[&str], before: &str, after: &str) -> Run {
    let lab = Lab::new();
    let body: Vec<String> = pages.iter().map(|page| pasted(page)).collect();
    let script = lab.write("script", &[MACHINE, before, &body.join("\n"), after].join("\n"));
    let mut shell = Command::new("timeout");
    shell.args(["--kill-after=5", &(60 * slowness()).to_string(), "sh"]).arg(script);
    shell.env("NAIKON", binary()).env("TREE", workspace()).current_dir(lab.folder.path());
    // The package, where the quick start looks for it.
    lab.write("naikon_0_amd64.deb", "");
    let ended = lab.gateway.enter(|| shell.stdin(Stdio::null()).output());
    Run::from(ended.expect("coreutils are installed"))
}

#[test]
fn quick_start_protects_a_gateway_and_proves_it() {
    if needs_root() {
        return;
    }
    let followed = follow(&["docs/quick-start.md"], "", "naikon status --check").exits(0);
    followed
        .says("protected: 2 of 2 interfaces")
        .says("198.51.100.7/32  test  listed")
        .says("no answer, as it should be");
}

#[test]
fn recipes_do_what_they_say() {
    if needs_root() {
        return;
    }
    let installed = pasted("docs/quick-start.md").split("sudo usermod").next().unwrap().to_owned();
    let after = "systemctl daemon-reload\nstat --format %a,%U,%G /var/lib/naikon-feeds/own.txt\nnaikon status --check";
    let followed = follow(&["docs/feeds.md", "docs/recipes.md", "docs/security.md"], &installed, after).exits(0);
    followed
        .says("198.51.100.9/32  own  listed")
        .says("passes, whatever lists say")
        .says("640,naikon-feeds,naikon")
        .says("protected: 2 of 2 interfaces");
}
