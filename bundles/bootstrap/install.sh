#!/bin/sh
# Install Plugsky from this bundle on a host that has nothing but Debian's minimal system; no network is used.
#
# Compare `sha256sum` of this file with the paper before you run it: it is what everything else is checked by. In order:
#   1. this file knows the SHA-256 of the verifier and of the packages that bring Python and libgomp1; each is copied to a private
#      directory on this host, the copy is compared, and only the copy is used;
#   2. where Python or libgomp1 is missing, those packages are installed with dpkg (root; it says so and asks first);
#   3. the verifier checks all signatures of the bundle against the fingerprint on the paper, and the bytes of all
#      that is needed here, and copies the Python parts while it hashes them;
#   4. from these copies a small Python environment is made in that directory; with it, `plugsky bundle install` does
#      the rest: it verifies the bundle again, copies it in one read and makes the first generation, with an environment
#      of its own. Then the private directory is removed, whatever happened.
# Nothing from the media runs before it was compared. Interrupted, it can simply be run again.
# Exit code: 0 done, 1 failed, 2 usage, 3 declined, 5 verification failed, 7 not found, 8 another one runs,
# 129, 130, 143 ended by SIGHUP, Ctrl-C, SIGTERM.
set -eu
users_umask=$(umask)
umask 077
PATH=$PATH:/usr/sbin:/sbin
export PATH

# What the builder filled in.
channel='@channel@'
version='@version@'
verifier_sha256='@verifier@'
not_needed='@not_needed@'
parts() {
  cat <<'END'
@parts@
END
}

say() { printf '%s\n' "$*" >&2; }

# fail CODE WHAT WHY NEXT
fail() {
  say "error: $2"
  say "  why:  $3"
  say "  next: $4"
  exit "$1"
}

usage() {
  cat <<END
Install Plugsky, channel $channel, version $version, without a network.

  sh install.sh --pin FINGERPRINT [--root DIR] [--bundle DIR] [--yes]

  --pin FINGERPRINT  the fingerprint of the root on the paper: 64 hex digits, or its words in quotes
  --root DIR         where the site goes; root may leave it out: /var/lib/plugsky
  --bundle DIR       the directory of the bundle; it may be left out where install.sh lies in it
  --yes              do not ask
  --help             say this

First compare this file with the paper: sha256sum install.sh
For example: sh install.sh --pin 3f2a... --root /srv/plugsky
END
}

# What stands between the quotes of a shell: 'it'\''s'
quoted() {
  rest=$1
  text=
  while :; do
    case $rest in
      *"'"*)
        text="$text${rest%%"'"*}'\\''"
        rest=${rest#*"'"}
        ;;
      *) break ;;
    esac
  done
  printf "'%s'" "$text$rest"
}

again() { printf 'sh %s --pin %s --root %s --bundle %s' "$(quoted "$0")" "$(quoted "$pin")" "$(quoted "$root")" "$(quoted "$bundle")"; }

read_arguments() {
  pin='' root='' bundle='' yes=''
  while [ $# -gt 0 ]; do
    case $1 in
      --pin=* | --root=* | --bundle=*)
        value=${1#*=}
        name=${1%%=*}
        shift
        set -- "$name" "$value" "$@"
        continue
        ;;
      --pin | --root | --bundle)
        [ $# -gt 1 ] || fail 2 "$1 needs a value" "it is the last argument" "Run: sh install.sh --help"
        case $1 in
          --pin) pin=$2 ;;
          --root) root=$2 ;;
          --bundle) bundle=$2 ;;
        esac
        shift
        ;;
      --yes | -y) yes=yes ;;
      --help | -h)
        usage
        exit 0
        ;;
      *) fail 2 "There is no option $1" "the options are --pin, --root, --bundle, --yes and --help" "Run: sh install.sh --help" ;;
    esac
    shift
  done
  [ -n "$pin" ] || fail 2 "The fingerprint from the paper is missing" "a bundle proves nothing about itself" \
    "Run: sh install.sh --pin FINGERPRINT"
  if [ -z "$root" ]; then
    [ "$(id -u)" = 0 ] || fail 2 "Where shall the site go?" "only root installs to /var/lib/plugsky" \
      "Add --root DIR, a directory of yours"
    root=/var/lib/plugsky
  fi
  case $root in /*) ;; *) root=$PWD/$root ;; esac
  while [ "$root" != / ] && [ "$root" != "${root%/}" ]; do root=${root%/}; done
  if [ -z "$bundle" ]; then
    case $0 in */*) bundle=${0%/*} ;; *) bundle=. ;; esac
  fi
}

check_host() {
  for tool in cat chmod cp flock id mkdir rm rmdir sha256sum stat uname; do
    command -v "$tool" >/dev/null 2>&1 || fail 1 "The command $tool is missing" "every Debian system has it" \
      "Install coreutils and util-linux"
  done
  bundle=$(CDPATH='' cd -- "$bundle" 2>/dev/null && pwd) || fail 7 "There is no directory $bundle" "it cannot be entered" \
    "Check the path of the media"
  [ -f "$bundle/tools/plugsky_verify.py" ] || fail 7 "There is no bundle in $bundle" \
    "it has no tools/plugsky_verify.py" "Add --bundle DIR, the directory named plugsky-$channel-$version"
  if [ -z "$yes" ] && ! [ -t 0 ]; then
    fail 2 "Nobody is there to be asked" "standard input is no terminal" "Run: $(again) --yes"
  fi
}

ask() {
  [ -z "$yes" ] || return 0
  printf '%s [y/N] ' "$1" >&2
  read -r answer || answer=
  case $answer in
    y | Y | yes | Yes) ;;
    *)
      say "Nothing was changed."
      exit 3
      ;;
  esac
}

# Refuse a directory in which someone else could swap what is checked here: check_own DIRECTORY
check_own() {
  then="Remove it, or name another directory with --root"
  [ ! -L "$1" ] && [ -d "$1" ] || fail 1 "$1 is no directory of its own" "it is a link or a file" "$then"
  [ -O "$1" ] || fail 1 "$1 belongs to someone else" "who owns it could change what runs here" "Run this as its owner, or name another with --root"
  case $(stat -c %A -- "$1") in
    d????-??-?) ;;
    *) fail 1 "Others can write to $1" "they could change what runs here" "Run: chmod go-w $(quoted "$1"); after a look at what lies there" ;;
  esac
}

# Refuse a place whose owner, or whose guests, could put another directory there later.
check_above() {
  above=$root
  while [ -n "$above" ]; do
    above=${above%/*}
    [ -e "${above:-/}" ] || continue
    case $(stat -L -c '%u %A' -- "${above:-/}") in
      "0 d"???????-? | "$(id -u) d"???????-? | "0 d"????????[tT] | "$(id -u) d"????????[tT]) ;;
      *) fail 1 "Others can replace $root" "they can change ${above:-/}, which it lies in" "Name another directory with --root" ;;
    esac
  done
}

# The private directory: on the file system of the site, which must allow programs to run.
make_work() {
  check_above
  made=
  [ -d "$root" ] || [ -L "$root" ] || made=yes
  (umask "$users_umask" && mkdir -p -- "$root" && { [ -z "$made" ] || chmod go-w -- "$root"; }) ||
    fail 1 "$root cannot be made" "see above" "Name another directory with --root"
  check_own "$root"
  [ -d "$root/bootstrap" ] || mkdir -- "$root/bootstrap" ||
    fail 1 "$root cannot be written" "see above" "Name another directory with --root"
  check_own "$root/bootstrap"
  chmod 700 -- "$root/bootstrap"
  exec 9<"$root/bootstrap" # the directory is the lock; the kernel lets go of it when the last of our processes ends
  flock -n 9 || fail 8 "Another install.sh works on $root" "it holds its lock" "Wait for it to end, then run this again"
  work=$root/bootstrap
  rm -rf -- "${work:?}"/*
  printf '#!/bin/sh\nexit 0\n' >"$work/may-run"
  chmod 700 "$work/may-run"
  "$work/may-run" 2>/dev/null || fail 1 "No program may run below $root" "its file system is mounted noexec" \
    "Name a directory on another file system with --root"
}

remove_work() {
  code=$?
  trap - EXIT HUP INT TERM
  [ -z "${work-}" ] || rm -rf -- "$work"
  [ -z "${made-}" ] || rmdir -- "$root" 2>/dev/null || :
  exit "$code"
}

# Copy one file of the media and compare the copy: bring FILE NAME SHA256
bring() {
  mkdir -p "$work/${2%/*}"
  [ -f "$bundle/$1" ] && [ ! -L "$bundle/$1" ] || fail 5 "$1 is no file" "a link, a pipe or a device lies there, or nothing" \
    "Do not use it; copy the bundle again from its source"
  cp -- "$bundle/$1" "$work/$2" || fail 5 "$1 cannot be read" "see above" "Copy the bundle again from its source"
  found=$(sha256sum <"$work/$2")
  [ "${found%% *}" = "$3" ] || fail 5 "$1 was changed" "its SHA-256 is ${found%% *}, not $3" \
    "Do not use it; copy the bundle again from its source"
}

# Which of the bundle's parts are for this host: sets folder, wanted (its Python) and os.
choose_parts() {
  os=unknown
  # shellcheck source=/dev/null
  [ ! -r /etc/os-release ] || os=$(. /etc/os-release && printf '%s-%s' "${ID-unknown}" "${VERSION_ID-0}")
  machine=$(uname -m)
  folder='' wanted='' there=''
  while read -r kind name system hardware release; do
    [ "$kind" = target ] || continue
    there="$there $system/$hardware/Python-$release"
    [ "$hardware" = "$machine" ] || continue
    if [ "$system" = "$os" ] || [ "$system" = any ]; then
      folder=$name wanted=$release
      break
    fi
    if [ -z "$folder" ] && find_python "$release"; then
      folder=$name wanted=$release
    fi
  done <<END
$(parts)
END
  [ -n "$folder" ] || fail 1 "The bundle is not for this host" \
    "this is $os on $machine, its parts are for:$there" "Ask the operator for a bundle for this host"
}

# A Python of that version with all that is needed of its library: sets python.
find_python() {
  for python in "python$1" python3; do
    if command -v "$python" >/dev/null 2>&1 && "$python" -I -B -c \
      "import sys, ctypes, hashlib, sqlite3, ssl, venv, zlib; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      return 0
    fi
  done
  return 1
}

# Sets lacking: what the host needs before the appliance; empty when all is there.
look() {
  lacking=
  if find_python "$wanted"; then
    "$python" -I -B -c "import ctypes; ctypes.CDLL('libgomp.so.1')" 2>/dev/null || lacking=libgomp1
  else
    lacking="Python $wanted"
  fi
}

bring_packages() {
  names='' last=''
  while read -r kind name stage digest file; do
    [ "$kind" = deb ] && [ "$name" = "$folder" ] || continue
    names="$names ${file%%_*}"
    last=$stage
  done <<END
$(parts)
END
  [ -n "$names" ] || fail 1 "$lacking is missing here" "and this bundle carries no packages that would bring it" \
    "Install python3 and libgomp1 of $os; or ask the operator for a bundle with [debs]"
  command -v dpkg >/dev/null 2>&1 || fail 1 "$lacking is missing here" "without dpkg this cannot bring it" "Install $lacking yourself"
  [ "$(id -u)" = 0 ] || fail 1 "$lacking is missing here" "only root may install it" "Have root run: $(again)"
  say "$lacking is missing here. With dpkg, these packages of the bundle would be installed; those that are there"
  say "in the same or a newer version stay as they are:"
  say " $names"
  ask "Install them?"
  number=100
  while read -r kind name stage digest file; do
    [ "$kind" = deb ] && [ "$name" = "$folder" ] || continue
    prefix=${digest%"${digest#??}"}
    bring "blobs/$prefix/sha256-$digest" "debs/$stage/$number-$file" "$digest" # dpkg gets them in this order
    number=$((number + 1))
  done <<END
$(parts)
END
  stage=0
  while [ "$stage" -le "$last" ]; do
    say "installing packages, step $((stage + 1)) of $((last + 1))"
    run_dpkg --refuse-downgrade --skip-same-version --unpack "$work/debs/$stage"/*.deb
    run_dpkg --configure --pending
    stage=$((stage + 1))
  done
  look
  [ -z "$lacking" ] || fail 1 "$lacking does not work here" "the packages are installed, though" "Look at: dpkg --audit"
}

run_dpkg() {
  (umask 022 && DEBIAN_FRONTEND=noninteractive exec dpkg --force-confold "$@") </dev/null >"$work/dpkg.log" 2>&1 || {
    cat "$work/dpkg.log" >&2
    fail 1 "dpkg could not install the packages" "see above" "Run: dpkg --configure --pending; then this again"
  }
}

verify() {
  say "verifying signatures, and the parts that are needed here"
  place=python
  [ "$folder" = . ] || place=python/$folder
  set -- "$bundle" --pin "$pin" --copy "$place" "$work/python"
  [ ! -f "$root/trust/state.json" ] || set -- "$@" --site "$root"
  "$python" -I -S -B "$work/tools/plugsky_verify.py" "$@" >&2 || exit $?
}

make_environment() {
  say "making a small Python environment to install with"
  while read -r line; do
    case " $not_needed " in *" ${line%%==*} "*) ;; *) printf '%s\n' "$line" ;; esac
  done <"$work/python/requirements.txt" >"$work/needed.txt"
  "$python" -I -m venv --without-pip "$work/venv" >&2 || no_environment
  set -- "$work"/python/pip-*.whl
  TMPDIR=$work HOME=$work "$work/venv/bin/python" -I "$1/pip" --isolated --disable-pip-version-check --no-input \
    install --no-index --find-links "$work/python" --require-hashes --no-deps --no-compile --only-binary :all: \
    --no-cache-dir --progress-bar off --quiet --no-warn-script-location --requirement "$work/needed.txt" >&2 ||
    no_environment
}

no_environment() {
  fail 1 "The Python environment could not be made" "see above" "Free some space below $root, and run: $(again)"
}

install() {
  set -- bundle install "$bundle" --root "$root" --pin "$pin"
  [ -z "$yes" ] || set -- "$@" --yes
  code=0
  (umask "$users_umask" && exec "$work/venv/bin/plugsky" "$@" 9<&-) || code=$?
  if [ "$code" != 0 ]; then
    say "The installation did not end well; once that is dealt with, run: $(again)"
    exit "$code"
  fi
}

main() {
  read_arguments "$@"
  check_host
  work='' made=''
  trap remove_work EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  make_work
  bring tools/plugsky_verify.py tools/plugsky_verify.py "$verifier_sha256"
  python=
  choose_parts
  look
  [ -z "$lacking" ] || bring_packages
  verify
  make_environment
  install
}

main "$@"
