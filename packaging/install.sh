#!/bin/sh
# Installs naikon from this folder, on a Linux that has no package of it; takes it away again.
set -eu

usage() {
    cat <<'END'
Usage: ./install.sh [install | uninstall | purge]

  install    programs, man pages, completions, service unit (systemd), user and group; an upgrade, too: the configuration
             is kept, and what is enforced stays in force until the new daemon takes over (not with on_exit = "detach")
  uninstall  stops and detaches naikon and removes what was installed; configuration, lists and state stay
  purge      removes these as well, and user and group where they were made here

  PREFIX     where programs go [/usr/local]
  DESTDIR    a folder in place of /: only files are written there; no user is made and no service is touched
END
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

action=${1:-install}
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
config=/etc/naikon/naikon.toml
# Notes of what was made; and of what an uninstall leaves for a later purge.
installed=$root$prefix/share/naikon/installed
left=$root/etc/naikon/.uninstalled

case "$action" in
install | uninstall | purge) ;;
-h | --help | help)
    usage
    exit 0
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
case "$prefix" in
/*) ;;
*) fail "PREFIX=$prefix is no absolute path" ;;
esac
# It becomes part of the unit, where other signs may mean something.
case "$prefix" in
*[!A-Za-z0-9/._+-]*) fail "PREFIX=$prefix: only letters, digits and / . _ + - are allowed" ;;
esac
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    fail "needs root: sudo ./install.sh $action"
fi
# Nobody else writes here.
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# Whether a systemd runs that is to hear of it.
has_systemd() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

# Whether naikon is here as a package of Debian's.
is_packaged() {
    case "$(dpkg-query --admindir="$root/var/lib/dpkg" --show --showformat='${db:Status-Status}' naikon 2>/dev/null || true)" in
    '' | not-installed | config-files) return 1 ;;
    esac
}

# Where naikon is, to who looks for it elsewhere: the note of another PREFIX, or the program and unit that are found.
where_it_is() {
    if is_packaged; then
        echo "naikon is here as a package: apt remove naikon, or apt purge naikon"
        return
    fi
    if [ -z "$root" ] && has naikon; then
        program=$(command -v naikon)
        echo "there is $program"
        other=${program%/bin/naikon}
    fi
    for unit in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system; do
        unit=$unit/naikon.service
        if [ -f "$root$unit" ]; then
            echo "there is the unit $unit"
            other=$(sed -n 's|^ExecStart=\(.*\)/bin/naikon run.*|\1|p' "$root$unit")
        fi
    done
    if [ -n "${other:-}" ] && [ -f "$root$other/share/naikon/installed" ]; then
        echo "it was installed with another prefix: PREFIX=$other ./install.sh $action"
    else
        echo "name the prefix that it was installed with: PREFIX=... ./install.sh $action"
    fi
}

# Makes a folder and those above it, and notes which were not there.
make_folder() {
    if [ -d "$1" ]; then return; fi
    make_folder "$(dirname -- "$1")"
    mkdir -- "$1"
    chmod 0755 -- "$1"
    echo "folder ${1#"$root"}" >>"$made"
}

# put FILE PATH: under another name first, so that a program that runs is not written to.
put() {
    make_folder "$(dirname -- "$root$2")"
    cp -- "$1" "$root$2.new"
    case "$2" in
    */bin/*) chmod 0755 -- "$root$2.new" ;;
    # Marked: not for everybody on the machine.
    */share/naikon/lists/*/*) chmod 0640 -- "$root$2.new" ;;
    *) chmod 0644 -- "$root$2.new" ;;
    esac
    mv -f -- "$root$2.new" "$root$2"
    echo "file $2" >>"$made"
}

# Where a file of this folder goes on this system; nothing where it is not wanted.
place_of() {
    case "$1" in
    usr/lib/systemd/system/*)
        # systemd looks below these two prefixes and in /etc.
        case "$prefix" in
        /usr | /usr/local) echo "$prefix/lib/systemd/system/${1##*/}" ;;
        *) echo "/etc/systemd/system/${1##*/}" ;;
        esac
        ;;
    usr/share/zsh/vendor-completions/*) echo "$prefix/share/zsh/site-functions/${1##*/}" ;;
    usr/*) echo "$prefix/${1#usr/}" ;;
    etc/logrotate.d/*) if [ -n "$root" ] || [ -d /etc/logrotate.d ]; then echo "/$1"; fi ;;
    *) echo "/$1" ;;
    esac
}

# Beside an edited file. logrotate reads everything in its folder but what ends like this.
new_of() {
    case "$1" in
    /etc/logrotate.d/*) echo "$1.dpkg-dist" ;;
    *) echo "$1.dist" ;;
    esac
}

has() {
    command -v "$1" >/dev/null
}

# By shadow's programs, or by busybox's. What was there is somebody else's, and not noted.
make_user() {
    if ! grep -q '^naikon:' /etc/group; then
        if has groupadd; then groupadd --system naikon; elif has addgroup; then addgroup -S naikon; fi
        if grep -q '^naikon:' /etc/group; then echo "group naikon" >>"$installed"; fi
    fi
    if ! grep -q '^naikon:' /etc/passwd; then
        if has useradd; then
            useradd --system --gid naikon --no-create-home --home-dir /nonexistent --shell /sbin/nologin naikon
        elif has adduser; then
            adduser -S -D -H -h /nonexistent -s /sbin/nologin -G naikon naikon
        fi
        if grep -q '^naikon:' /etc/passwd; then echo "user naikon" >>"$installed"; fi
    fi
    if ! grep -q '^naikon:' /etc/passwd || ! grep -q '^naikon:' /etc/group; then
        echo "install.sh: make a system user and a group naikon: there is no program here to do it" >&2
    fi
}

remove_user() {
    if grep -q '^user naikon$' "$list" && grep -q '^naikon:' /etc/passwd; then
        if has userdel; then userdel naikon; elif has deluser; then deluser naikon; fi
    fi
    # Some take it along with the user.
    if grep -q '^group naikon$' "$list" && grep -q '^naikon:' /etc/group; then
        if has groupdel; then groupdel naikon; elif has delgroup; then delgroup naikon; fi
    fi
}

names_an_interface() {
    grep -Eq "^[[:space:]]*[\"']?interfaces[\"']?[[:space:]]*=" "$config" ||
        { has_systemd && systemctl show --property=ExecStart naikon.service 2>/dev/null | grep -Eq -- ' (-i|--interface)'; }
}

# Two units of one name would lie in two places, and the system may take the older one.
refuse_a_second_prefix() {
    for unit in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system; do
        other=$(sed -n 's|^ExecStart=\(.*\)/bin/naikon run.*|\1|p' "$root$unit/naikon.service" 2>/dev/null || true)
        if [ -n "$other" ] && [ "$other" != "$prefix" ] && [ -f "$root$other/share/naikon/installed" ]; then
            fail "naikon is here with another prefix: PREFIX=$other ./install.sh, or take it away first: PREFIX=$other ./install.sh uninstall"
        fi
    done
}

do_install() {
    [ -d "$here/files" ] || fail "there is no folder 'files' beside this script: start it where the archive was unpacked"
    if is_packaged; then
        fail "naikon is here as a package, which this would stand beside: apt install the newer one, or apt remove naikon first"
    fi
    refuse_a_second_prefix
    made=$work/made
    touch -- "$made"
    # What an earlier install made is still ours.
    if [ -f "$installed" ]; then cat -- "$installed" >"$made"; fi
    before=$(wc -l <"$made")
    if [ -f "$left" ]; then cat -- "$left" >>"$made"; fi
    (cd "$here/files" && find . -type f | sed 's|^\./||' | sort) >"$work/files"
    while IFS= read -r file; do
        place=$(place_of "$file")
        if [ -z "$place" ]; then continue; fi
        source=$here/files/$file
        case "$file" in
        etc/*)
            # Configuration is the admin's once it is there.
            if [ -e "$root$place" ]; then
                if ! cmp -s "$source" "$root$place"; then cp -- "$source" "$root$(new_of "$place")"; fi
                continue
            fi
            make_folder "$(dirname -- "$root$place")"
            cp -- "$source" "$root$place"
            chmod 0644 -- "$root$place"
            continue
            ;;
        *.service)
            sed "s|/usr/bin/naikon|$prefix/bin/naikon|g" "$source" >"$work/unit"
            source=$work/unit
            ;;
        esac
        put "$source" "$place"
    done <"$work/files"
    for folder in lists.d allow.d; do
        if [ ! -d "$root/etc/naikon/$folder" ]; then mkdir -- "$root/etc/naikon/$folder"; fi
    done
    make_folder "$(dirname -- "$installed")"
    sort -u -- "$made" >"$installed"
    rm -f -- "$left"

    if [ -n "$root" ]; then return; fi
    make_user
    if grep -q '^naikon:' /etc/group; then
        chown root:naikon /etc/naikon/lists.d /etc/naikon/allow.d
        chmod 2750 /etc/naikon/lists.d /etc/naikon/allow.d
    fi
    if has_systemd; then
        systemctl daemon-reload
        if [ "$before" = 0 ]; then systemctl enable --quiet naikon.service; fi
    fi
    if ! names_an_interface; then
        echo "naikon: name the interfaces to protect in $config, such as: interfaces = [\"eth0\", \"eth1\"]"
        if has_systemd; then
            echo "naikon: then start it: systemctl restart naikon"
        else
            echo "naikon: then start it at each boot, as root: $prefix/bin/naikon run --config $config"
        fi
        return
    fi
    if has_systemd; then
        # What was stopped on purpose stays so.
        if [ "$before" = 0 ] || [ "$(systemctl is-active naikon.service || true)" != inactive ]; then
            if grep -Eq "^[[:space:]]*[\"']?on_exit[\"']?[[:space:]]*=[[:space:]]*[\"']detach" "$config"; then
                echo "naikon: on_exit = \"detach\" in $config: nothing is enforced while it restarts" >&2
            fi
            systemctl restart naikon.service || echo "naikon: it does not run; why: systemctl status naikon" >&2
        fi
    else
        echo "naikon: restart it; until then the old one goes on"
    fi
}

# Where the configuration says, and where naikon is by default. Nothing to detach is success; pins elsewhere are none until they are gone,
# which they are when this runs again.
detach() {
    detached=yes
    if [ -x "$naikon" ]; then
        if [ -r "$config" ]; then
            "$naikon" detach --quiet --config "$config" || detached=no
        fi
        "$naikon" detach --quiet || detached=no
    fi
    # And where it was when the file named another place.
    for names in /sys/fs/bpf/*/v[0-9]*/NAMES /sys/fs/bpf/*/*/v[0-9]*/NAMES; do
        if [ -e "$names" ]; then
            "$naikon" detach --quiet --pin-dir "${names%/v[0-9]*/NAMES}" || detached=no
        fi
    done
}

do_uninstall() {
    naikon=$prefix/bin/naikon
    list=$work/list
    if [ -f "$installed" ]; then
        cat -- "$installed" >"$list"
    elif [ "$action" = purge ] && [ -f "$left" ] && ! is_packaged; then
        cat -- "$left" >"$list"
    else
        fail "nothing is removed: there is no $installed
$(where_it_is)"
    fi
    if [ "$action" = purge ] && is_packaged; then
        fail "nothing is removed: naikon is here as a package, too, whose configuration this would take: ./install.sh uninstall"
    fi
    if [ -z "$root" ]; then
        # First, since a daemon that runs knows its own pins: the file may name others by now. One without systemd ends, too.
        detach
        if has_systemd; then systemctl disable --quiet --now naikon.service || true; fi
        # And what came back before the stop.
        detach
        # The daemon cannot take the folder away, on which its sandbox stands.
        rmdir /sys/fs/bpf/naikon 2>/dev/null || true
        if [ "$detached" = no ]; then
            echo "naikon: could not detach; pins that are left, in pin_dir of $config or below /sys/fs/bpf, go on enforcing until" \
                "they are removed or the machine restarts" >&2
        fi
        case "$(stat -c %a:%G /sys/fs/bpf 2>/dev/null)" in
        *710:naikon) chmod g-x /sys/fs/bpf && chgrp root /sys/fs/bpf ;;
        esac
    fi
    rm -f -- "$installed"
    sed -n 's/^file //p' "$list" | while IFS= read -r file; do rm -f -- "$root$file"; done
    rm -f -- "$root/etc/logrotate.d/naikon.dpkg-dist"
    if [ "$action" = purge ]; then
        rm -rf -- "$root/etc/naikon" "$root/var/lib/naikon" "$root/var/log/naikon" "$root/run/naikon"
        rm -f -- "$root/etc/logrotate.d/naikon"
    elif [ -d "$root/etc/naikon" ]; then
        grep -v '^file ' "$list" >"$left" || true
    fi
    # Those that naikon made and nobody else uses; the deepest first.
    sed -n 's/^folder //p' "$list" | sort -r | while IFS= read -r folder; do
        rmdir -- "$root$folder" 2>/dev/null || true
    done
    if [ "$action" = purge ] && [ -z "$root" ]; then remove_user; fi
    if has_systemd; then systemctl daemon-reload; fi
}

case "$action" in
install) do_install ;;
*) do_uninstall ;;
esac
