#!/bin/sh
# Keeps a host on a generation that works. It lies outside the generations, so that none of them can spoil it.
#
#   guard apply   units, sockets and processes follow `current`
#   guard look    whether a switch that was begun has to be taken back; takes it back
#   guard watch   looks every few seconds, for as long as there is something to look at
#
# Who switches leaves `trial` in the site's directory before `current` moves, and holds the site's lock (flock(1)) until
# the new generation has answered. So a trial without that lock is a switch whose maker died: back. One that takes too
# long: back. After the answer the trial is a probation: back where the gateway or an engine dies again and again, or the
# host does. Going back is the same however often it is begun: point `current`, apply, and only then forget the trial.
set -eu
umask 022
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

root=/var/lib/plugsky
trial=$root/trial
etc=/etc/systemd/system
max_restarts=5
max_boots=3
probation_s=600

say() { printf '%s\n' "$*" >&2; }

# Where `current` points: the number of a generation.
pointed() {
  target=$(readlink "$root/current") || target=
  printf '%s' "${target##*/}"
}

# Make generation $1 the current one, in one step.
point() {
  rm -f "$root/.current.guard"
  ln -s "generations/$1" "$root/.current.guard"
  mv -T "$root/.current.guard" "$root/current"
  sync "$root"
}

unit_name() {
  case $1 in
    engine.*) printf 'plugsky-engine@.%s' "${1##*.}" ;;
    *) printf 'plugsky-%s' "$1" ;;
  esac
}

apply() {
  changed=
  for file in "$root"/current/playbooks/roles/appliance/files/units/*; do
    [ -f "$file" ] || continue
    name=$(unit_name "${file##*/}")
    if ! cmp -s "$file" "$etc/$name"; then
      cp "$file" "$etc/.$name.new"
      chmod 0644 "$etc/.$name.new"
      mv "$etc/.$name.new" "$etc/$name"
      changed=yes
    fi
  done
  [ -z "$changed" ] || systemctl daemon-reload
  for link in "$etc"/sockets.target.wants/plugsky-engine@*.socket; do
    model=${link##*/plugsky-engine@}
    model=${model%.socket}
    if [ -L "$link" ] && [ ! -d "$root/current/models/$model" ]; then
      systemctl --quiet disable --now "plugsky-engine@$model.socket"
    fi
  done
  for model in "$root"/current/models/*/; do
    model=${model%/}
    [ -d "$model" ] || continue
    systemctl --quiet enable --now "plugsky-engine@${model##*/}.socket"
  done
  # The gateway finishes what runs; who asks meanwhile waits in its socket, and the next one answers.
  systemctl stop plugsky-gateway.service
  systemctl stop 'plugsky-engine@*.service'
  systemctl try-restart plugsky-admin.service
  systemctl reset-failed 'plugsky-*' 2>/dev/null || :
  systemctl start plugsky-gateway.service
}

# Back to generation $from, because of $1.
take_back() {
  say "generation $to: $1; going back to generation $from"
  if [ "$(pointed)" != "$from" ]; then
    point "$from"
  fi
  apply
  printf 'from=%s\nto=%s\nwhy=%s\nat=%s\n' "$to" "$from" "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$root/.returned.new"
  mv "$root/.returned.new" "$root/returned"
  rm -f "$trial"
}

# The most often that systemd had to start one of the processes again.
restarts() {
  most=0
  for unit in plugsky-gateway.service $(systemctl list-units --all --plain --no-legend 'plugsky-engine@*.service' | cut -d' ' -f1); do
    count=$(systemctl show --property=NRestarts --value "$unit")
    [ "$count" -le "$most" ] || most=$count
  done
  printf '%s' "$most"
}

watch() {
  while [ -f "$trial" ]; do
    "$0" look || say "the guard failed with $?; it tries again"
    sleep 2
  done
}

look() {
  [ -f "$trial" ] || exit 0
  state='' from='' to='' boot='' until='' boots=0
  while IFS='=' read -r name value; do
    case $name in
      state) state=$value ;;
      from) from=$value ;;
      to) to=$value ;;
      boot) boot=$value ;;
      until) until=$value ;;
      boots) boots=$value ;;
    esac
  done <"$trial"
  case $from$to$until$boots in *[!0-9]* | '') say "$trial cannot be read"; exit 1 ;; esac
  read -r up rest </proc/uptime
  up=${up%%.*}
  read -r now </proc/sys/kernel/random/boot_id
  exec 9<"$root"
  case $state in
    switching)
      if flock -n 9; then
        take_back "its switch was not finished"
      elif [ "$boot" = "$now" ] && [ "$up" -ge "$until" ]; then
        take_back "its switch took too long"
      fi
      ;;
    probation)
      flock -n 9 || exit 0 # somebody switches again
      if [ "$boot" != "$now" ]; then
        boots=$((boots + 1))
        until=$((up + probation_s))
        printf 'state=probation\nfrom=%s\nto=%s\nboot=%s\nuntil=%s\nboots=%s\n' "$from" "$to" "$now" "$until" "$boots" >"$root/.trial.new"
        mv "$root/.trial.new" "$trial"
      fi
      if [ "$boots" -ge "$max_boots" ]; then
        take_back "the host was started $boots times in a row within its probation"
      elif [ "$(restarts)" -ge "$max_restarts" ]; then
        take_back "its processes die again and again"
      elif [ "$up" -ge "$until" ]; then
        rm -f "$trial"
      fi
      ;;
    *) say "$trial cannot be read"; exit 1 ;;
  esac
}

case ${1-} in
  apply) apply ;;
  look) look ;;
  watch) watch ;;
  *)
    say "usage: guard apply|look|watch"
    exit 2
    ;;
esac
