#!/usr/bin/env bash
# Installs from Debian's packages what building (build) or testing (test)
# needs and this machine lacks. Checks first: on a machine that has everything
# it makes no network call. Run as root, or where sudo works.
set -euo pipefail

need_go=1.26
# The toolchain is a module of the Go proxy, pinned.
go_sha256=38461905b98c59173672814302e222ab43b652274bc0c95817b08b71ab66b705
go_module=golang.org/toolchain/@v/v0.0.1-go1.26.0.linux-amd64.zip
go_home=/usr/local/lib/purple-go

# A program that must be there, and the package that has it.
build_programs=(gcc:gcc make:make git:git curl:curl unzip:unzip pkg-config:pkg-config)
build_files=(/usr/include/seccomp.h:libseccomp-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates /usr/include/stdlib.h:libc6-dev)
test_programs=(
	systemctl:systemd dbus-daemon:dbus nsenter:util-linux mmdebstrap:mmdebstrap qemu-system-x86_64:qemu-system-x86
	mke2fs:e2fsprogs debugfs:e2fsprogs bwrap:bubblewrap runc:runc nft:nftables ip:iproute2 python3:python3 pip3:python3-pip
	pgrep:procps useradd:passwd findmnt:util-linux
	pasta:passt
	node:nodejs npm:npm strace:strace iperf3:iperf3 setpriv:util-linux capsh:libcap2-bin sudo:sudo
)
test_files=(
	/lib/systemd/systemd:systemd /usr/bin/dbus-daemon:dbus /usr/lib/systemd/user/dbus.socket:dbus-user-session
	/usr/share/pam-configs/systemd:libpam-systemd
)

die() { echo "deps: $*" >&2; exit 1; }

as_root() {
	if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

# missing prints the packages of what is not there. The search path is the
# system's: a shim in somebody's home is not what a sandbox will see.
missing() {
	local entry
	for entry in "${programs[@]}"; do
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v "${entry%%:*}" >/dev/null || echo "${entry#*:}"
	done
	for entry in "${files[@]}"; do
		[[ -e ${entry%%:*} ]] || echo "${entry#*:}"
	done
}

install_missing() {
	local packages
	mapfile -t packages < <(missing | sort -u)
	if ((${#packages[@]} == 0)); then return; fi
	command -v apt-get >/dev/null || die "install these by your distribution's names: ${packages[*]}"
	echo "deps: installing ${packages[*]}" >&2
	as_root apt-get -qq update
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null
}

go_version() { "$1" env GOVERSION 2>/dev/null | sed -n 's/^go\([0-9]*\.[0-9]*\).*/\1/p'; }

new_enough() {
	local have
	have=$(go_version "$1")
	[[ $have ]] && printf '%s\n%s\n' "$need_go" "$have" | sort -V -C
}

# install_go unpacks the toolchain that the Go module proxy has, because
# Debian's own is older. GOPROXY chooses another proxy.
install_go() {
	local go proxy zip
	for go in "$(command -v go || :)" /usr/local/go/bin/go "$go_home/bin/go"; do
		if [[ $go ]] && new_enough "$go"; then return; fi
	done
	proxy=${GOPROXY:-https://proxy.golang.org}
	proxy=${proxy%%,*}
	zip=$(mktemp)
	echo "deps: installing Go $need_go into $go_home" >&2
	curl -fsSL -o "$zip" "$proxy/$go_module"
	echo "$go_sha256  $zip" | sha256sum --check --quiet || die "the Go toolchain from $proxy is not the pinned one"
	as_root rm -rf "$go_home" "$go_home.new"
	as_root unzip -q "$zip" -d "$go_home.new"
	as_root mv "$go_home.new/golang.org/toolchain@v0.0.1-go1.26.0.linux-amd64" "$go_home"
	as_root rm -rf "$go_home.new" "$zip"
	# A module's files have no execute bits.
	as_root chmod -R a+rX "$go_home"
	as_root chmod a+x "$go_home"/bin/* "$go_home"/pkg/tool/*/*
	new_enough "$go_home/bin/go" || die "the Go in $go_home does not work"
}

case ${1-} in
build)
	programs=("${build_programs[@]}") files=("${build_files[@]}")
	install_missing
	install_go
	;;
test)
	programs=("${test_programs[@]}") files=("${test_files[@]}")
	install_missing
	;;
*) die "usage: deps.sh build|test" ;;
esac
