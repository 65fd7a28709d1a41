package translate

import (
	"path"
	"slices"
	"strings"
)

// sessionPlace is a file or directory below a home directory.
type sessionPlace struct {
	paths []string
	by    string // what reads it and runs what it says, outside of the sandbox
}

// sessionPlaces are what a login, a session or a shell, or a tool that developers call
// without a thought, runs by itself, or what opens the account to others. A command that
// could write there would have left its sandbox at the next login. Each is from the
// documentation of what it is called by. Where programs keep data and caches is not here.
var sessionPlaces = []sessionPlace{
	{[]string{".config/systemd", ".local/share/systemd"}, "the systemd user manager"},     // systemd.unit(5), at once
	{[]string{".config/environment.d"}, "the systemd user manager"},                       // environment.d(5)
	{[]string{".config/user-tmpfiles.d", ".local/share/user-tmpfiles.d"}, "systemd"},      // tmpfiles.d(5)
	{[]string{".config/containers"}, "podman and systemd"},                                // podman-systemd.unit(5), containers.conf(5)
	{[]string{".local/share/dbus-1"}, "the session bus"},                                  // D-Bus Specification, "service activation"
	{[]string{".config/autostart", ".config/autostart-scripts"}, "the desktop's session"}, // Desktop Application Autostart Specification
	{[]string{".config/plasma-workspace", ".config/plasma-localerc", ".kde", ".kde4", ".local/share/plasma", ".local/share/kwin", ".local/share/kio", ".local/share/kservices5"}, "KDE Plasma"},
	{[]string{".local/share/gnome-shell", ".config/gnome-session", ".local/share/gnome-session", ".local/share/cinnamon", ".local/share/nautilus", ".local/share/nautilus-python", ".local/share/nemo", ".config/caja", ".local/share/caja"}, "the desktop"},
	{[]string{".local/share/applications", ".config/mimeapps.list", ".mailcap"}, "who opens a file"}, // Desktop Entry Specification, mailcap(5)
	{[]string{".config/xfce4", ".config/lxsession", ".config/openbox", ".config/i3", ".i3", ".config/sway", ".config/hypr", ".config/niri", ".config/river", ".config/labwc",
		".config/awesome", ".config/bspwm", ".config/sxhkd", ".config/herbstluftwm", ".config/qtile", ".config/xmonad", ".xmonad", ".config/fluxbox", ".fluxbox", ".config/waybar", ".config/polybar", ".config/dunst", ".xbindkeysrc"}, "the window manager"},
	{[]string{".xinitrc", ".xserverrc", ".xsession", ".xsessionrc", ".xprofile", ".Xclients", ".config/X11", ".pam_environment", ".config/wireplumber", ".config/pipewire", ".config/pulse"}, "the session"}, // startx(1), Xsession(5), pam_env(8)

	{[]string{".profile", ".bash_profile", ".bash_login", ".bashrc", ".bash_logout", ".bash_aliases", ".bash_completion", ".local/share/bash-completion"}, "bash"},
	{[]string{".zshenv", ".zprofile", ".zshrc", ".zlogin", ".zlogout", ".config/zsh", ".oh-my-zsh"}, "zsh"},
	{[]string{".config/fish", ".local/share/fish", ".config/nushell", ".config/elvish", ".config/xonsh", ".xonshrc", ".config/powershell", ".kshrc", ".mkshrc", ".cshrc", ".tcshrc", ".login", ".logout"}, "a shell"},
	{[]string{".inputrc", ".config/starship.toml", ".lessfilter", ".config/direnv", ".direnvrc", ".local/share/direnv", ".envrc"}, "a shell"},
	{[]string{".local/bin", "bin", ".local/lib", ".cargo/bin", ".cargo/config.toml", ".cargo/config", ".cargo/env", "go/bin", ".config/go", ".deno/bin", ".bun/bin", ".bunfig.toml", ".nvm", ".volta", ".local/share/pnpm",
		".npmrc", ".yarnrc", ".yarnrc.yml", ".config/pip", ".pip", ".pydistutils.cfg", ".pyenv", ".rbenv", ".asdf", ".config/mise", ".local/share/mise", ".rustup", ".sdkman", ".nix-profile", ".config/nix",
		".m2/settings.xml", ".m2/extensions.xml", ".gradle/init.d", ".gradle/init.gradle", ".gradle/gradle.properties", ".irbrc", ".Rprofile", ".ghci", ".julia/config", ".config/composer", ".bazelrc"}, "who calls a program or a build"},
	{[]string{".config/git", ".gitconfig", ".git-templates", ".hgrc", ".config/hg", ".subversion", ".config/jj", ".config/gh", ".local/share/gh"}, "git and its kind"}, // gitconfig: hooks, aliases, fsmonitor
	{[]string{".docker", ".kube", ".aws", ".azure", ".config/gcloud", ".terraformrc", ".terraform.d", ".ansible.cfg", ".ansible/plugins", ".config/helm", ".local/share/helm", ".config/doctl"}, "tools of cloud providers, with your credentials"},
	{[]string{".vimrc", ".gvimrc", ".exrc", ".vim", ".config/nvim", ".local/share/nvim", ".emacs", ".emacs.d", ".config/emacs", ".config/helix", ".config/micro", ".config/kak",
		".config/Code", ".vscode", ".vscode-server", ".config/VSCodium", ".config/Cursor", ".cursor-server", ".config/zed", ".config/JetBrains", ".local/share/JetBrains", ".config/sublime-text"}, "an editor"},
	{[]string{".tmux.conf", ".config/tmux", ".tmux", ".screenrc", ".config/zellij", ".config/alacritty", ".config/kitty", ".config/foot", ".config/wezterm", ".wezterm.lua", ".config/ghostty"}, "a terminal"},
	{[]string{".gdbinit", ".config/gdb", ".lldbinit", ".pdbrc", ".psqlrc", ".sqliterc", ".my.cnf", ".perldb"}, "a debugger or a client of a database"},
	{[]string{".ssh", ".rhosts", ".shosts", ".k5login", ".k5users", ".forward", ".procmailrc", ".netrc"}, "who may log in, and mail"}, // sshd(8), .forward of aliases(5)
	{[]string{".gnupg", ".config/mutt", ".muttrc", ".mutt", ".config/neomutt", ".config/mpv", ".mozilla", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware", ".thunderbird", ".local/share/keyrings"}, "programs that run what is configured there"},
}

// SessionPaths are those below a home directory, of which each may be a link.
func SessionPaths(home string) []string {
	var paths []string
	for _, s := range sessionPlaces {
		for _, name := range s.paths {
			paths = append(paths, path.Join(home, name))
		}
	}
	return paths
}

// sessionPlaceIn finds the place that a writable folder would open: it is it, holds it or
// lies in it, by its own name or by where its link leads.
func sessionPlaceIn(dir string, homes []string, c *Command) (place, by string) {
	for _, s := range sessionPlaces {
		for _, name := range s.paths {
			for _, at := range placesOf(name, homes, c.Environ) {
				for _, real := range []string{at, c.Links[at]} {
					if real != "" && (covers(dir, real) || covers(real, dir)) {
						return at, s.by
					}
				}
			}
		}
	}
	return "", ""
}

// xdgDirs may be elsewhere (XDG Base Directory Specification).
var xdgDirs = []struct{ prefix, variable string }{{".config/", "XDG_CONFIG_HOME"}, {".local/share/", "XDG_DATA_HOME"}}

func placesOf(name string, homes []string, environ map[string]string) []string {
	var places []string
	for _, home := range homes {
		places = append(places, path.Join(home, name))
	}
	for _, xdg := range xdgDirs {
		below, ok := strings.CutPrefix(name, xdg.prefix)
		if base := environ[xdg.variable]; ok && path.IsAbs(base) {
			places = append(places, path.Join(base, below))
		}
	}
	return places
}

// homes are the home directories of this machine and of who called.
func (b *builder) homes() []string {
	homes := slices.Clone(b.h.Homes)
	if home := b.c.Invoker.Home; path.IsAbs(home) && path.Clean(home) != "/" {
		homes = append(homes, path.Clean(home))
	}
	return homes
}
