#!/usr/bin/env bash
# Lays the root of mp's container image under DIR: ./mp, the libraries that it loads and those that they load, names for
# users, certificates. Our libraries and libtorch lie below usr/lib/mp as they do in build/, where ./mp looks for them by its
# own place; those of the system keep their paths, because programs find them by these.
#
#   deploy/rootfs.sh DIR      SOURCE_DATE_EPOCH=SECONDS gives every file that time
set -euo pipefail

dir=$(realpath -m "$1")
cd "$(dirname "$0")/.."
torch=$(realpath "${LIBTORCH:-build/site/torch}")
site=$(dirname "$torch")
lib=$(realpath build/lib)
if [ ! -x mp ] || [ ! -e build/lib/libmpops.so ]; then
	echo "deploy/rootfs.sh: there is no ./mp with its libraries: run make first" >&2
	exit 1
fi
rm -rf "$dir"
mkdir -p "$dir"/{etc/ssl/certs,usr/bin,tmp,dev,proc,sys,scratch,var/lib/mp}
chmod 1777 "$dir/tmp"
if [ "$(id -u)" = 0 ]; then chown 65532:65532 "$dir"/{scratch,var/lib/mp}; fi # an engine's new volumes there take this owner

# Libraries, each once.
lay() {
	local f to
	for f in "$@"; do
		to=$(realpath "$(dirname "$f")")/$(basename "$f")
		case $to in
		"$lib"/*) to=/usr/lib/mp/lib/${to#"$lib"/} ;;
		"$site"/*) to=/usr/lib/mp/site/${to#"$site"/} ;;
		*) to=$(realpath -s "$f") ;;
		esac
		[ -e "$dir$to" ] || { mkdir -p "$dir$(dirname "$to")" && cp -L --preserve=mode "$f" "$dir$to"; }
	done
}

loaded=("$lib"/*.so)
if compgen -G "$site/nvidia/*/lib/libcublas.so.*" >/dev/null; then # opened when a GPU is asked for
	for f in "$torch"/lib/lib{torch_cuda,torch_cuda_linalg,c10_cuda}.so; do [ ! -e "$f" ] || loaded+=("$f"); done
	while read -r f; do loaded+=("$f"); done < <(find "$site/nvidia" -path '*/lib/*' -name '*.so*' | sort)
fi
cp mp "$dir/usr/bin/mp"
mapfile -t needed < <(for f in mp "${loaded[@]}"; do ldd "$f" 2>/dev/null || true; done |
	awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\/.*ld-linux/ { print $1 }' | sort -u)
lay "${loaded[@]}" "${needed[@]}"
printf 'root:x:0:0::/:\nmp:x:65532:65532::/tmp:\n' >"$dir/etc/passwd"
printf 'root:x:0:\nmp:x:65532:\n' >"$dir/etc/group"
printf 'hosts: files dns\n' >"$dir/etc/nsswitch.conf"
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then cp -L /etc/ssl/certs/ca-certificates.crt "$dir/etc/ssl/certs/"; fi
find "$dir" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
du -sh "$dir"
