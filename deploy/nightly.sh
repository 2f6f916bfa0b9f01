#!/usr/bin/env bash
# What takes too long for every change, one after another, and a table of it: docs/nightly.md. Fails if any of it does.
#
#   deploy/nightly.sh [TARGET...]    targets of make; without any: race fuzz drills soak
#
# FUZZTIME= and MINUTES= shorten it. What each says is kept in build/nightly/.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ $# = 0 ]; then set -- race fuzz drills soak; fi
logs=build/nightly
mkdir -p $logs
page=$(mktemp docs/.nightly-XXXXXX)
chmod 644 "$page"
trap 'rm -f "$page"' EXIT
failed=0
{
	echo "# The last night"
	echo
	echo "Written by \`make nightly${TLS:+ TLS=$TLS}${FUZZTIME:+ FUZZTIME=$FUZZTIME}${MINUTES:+ MINUTES=$MINUTES}\` on $(date -u +%F), at commit $(git rev-parse --short HEAD), on $(nproc) cores."
	echo
	echo "| target | minutes | verdict |"
	echo "|---|---|---|"
	for target in "$@"; do
		began=$(date +%s)
		verdict=passed
		if ! make --no-print-directory "$target" >$logs/"$target".log 2>&1; then verdict=FAILED failed=1; fi
		echo "| $target | $(awk "BEGIN { printf \"%.1f\", ($(date +%s) - $began) / 60 }") | $verdict |"
		echo "$target: $verdict" >&2
		if [ $verdict = FAILED ]; then tail -n 20 $logs/"$target".log >&2; fi
	done
	for target in "$@"; do
		case $target in # whose tables are worth keeping
		drills) said=$(sed -n '/^ *drill .* verdict /,/ held, .* did not, /p' $logs/drills.log) ;;
		soak) said=$(sed -n '/mp drill soak /p; /^soak/,/^samples lost/p' $logs/soak.log) ;;
		*) continue ;;
		esac
		printf '\n## make %s\n\n' "$target"
		sed 's/^/    /' <<<"$said"
	done
} >"$page"
mv "$page" docs/nightly.md
exit $failed
