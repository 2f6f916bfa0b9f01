#!/usr/bin/env bash
# Lays the root of mp's container image under DIR: ./mp, the libraries that it loads and those that they load, names for
# users, certificates. Libraries keep their paths, because programs find them by these.
#
#   deploy/rootfs.sh DIR      SOURCE_DATE_EPOCH=SECONDS gives every file that time
set -euo pipefail

dir=$(realpath -m "$1")
cd "$(dirname "$0")/.."
here=$(pwd -P)
torch=$(realpath "${LIBTORCH:-build/site/torch}")
site=$(dirname "$torch")
if [ ! -x mp ] || [ ! -e build/lib/libmpops.so ]; then
	echo "deploy/rootfs.sh: there is no ./mp with its libraries: run make first" >&2
	exit 1
fi
rm -rf "$dir"
mkdir -p "$dir"/{etc/ssl/certs,usr/bin,tmp,dev,proc,sys}
chmod 1777 "$dir/tmp"

# A file under the path by which it was named.
lay() { for f in "$@"; do mkdir -p "$dir$(dirname "$f")" && cp -L --preserve=mode "$f" "$dir$f"; done; }

loaded=()
for f in build/lib/*.so; do loaded+=("$(realpath build/lib)/$(basename "$f")"); done
if compgen -G "$site/nvidia/*/lib/libcublas.so.*" >/dev/null; then # opened when a GPU is asked for
	for f in "$torch"/lib/lib{torch_cuda,torch_cuda_linalg,c10_cuda}.so; do [ ! -e "$f" ] || loaded+=("$f"); done
	while read -r f; do loaded+=("$f"); done < <(find "$site/nvidia" -path '*/lib/*' -name '*.so*' | sort)
fi
lay "${loaded[@]}"
cp mp "$dir/usr/bin/mp"
for f in "$here/mp" "${loaded[@]}"; do ldd "$f" 2>/dev/null || true; done | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\/.*ld-linux/ { print $1 }' | sort -u |
	while read -r f; do
		# A library of ours may be reached by a winding path: it lies where that leads.
		case $f in *"/../"*) f=$(realpath -s "$f") ;; esac
		[ -e "$dir$f" ] || lay "$f"
	done
printf 'root:x:0:0::/:\nmp:x:65532:65532::/tmp:\n' >"$dir/etc/passwd"
printf 'root:x:0:\nmp:x:65532:\n' >"$dir/etc/group"
printf 'hosts: files dns\n' >"$dir/etc/nsswitch.conf"
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then cp -L /etc/ssl/certs/ca-certificates.crt "$dir/etc/ssl/certs/"; fi
find "$dir" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
du -sh "$dir"
