#include "movers/addresses/interfaces.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/text.h"

namespace midstream {
namespace {

using Words = std::vector<std::string>;

// A logical line: its bytes with continuations and line end, and its words; a comment has none.
struct Line {
  std::string raw;
  Words words;
  bool gone = false;
};

Words words_of(std::string_view text) {
  Words words;
  std::string word;
  for (const char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\\') {
      if (!word.empty()) words.push_back(std::exchange(word, {}));
    } else {
      word.push_back(c);
    }
  }
  if (!word.empty()) words.push_back(word);
  if (!words.empty() && words[0].starts_with('#')) words.clear();
  return words;
}

std::vector<Line> lines_of(std::string_view text, bool continuations) {
  std::vector<Line> lines;
  while (!text.empty()) {
    std::size_t end = text.find('\n');
    while (continuations && end != std::string_view::npos && end > 0 && text[end - 1] == '\\' &&
           !trim(text).starts_with('#'))
      end = text.find('\n', end + 1);
    const std::string_view raw = text.substr(0, end == std::string_view::npos ? end : end + 1);
    lines.push_back({std::string(raw), words_of(raw)});
    text.remove_prefix(raw.size());
  }
  return lines;
}

std::string text_of(const std::vector<Line>& lines) {
  std::string text;
  for (const Line& line : lines)
    if (!line.gone) text += line.raw;
  return text;
}

// "192.0.2.10/26" or "192.0.2.10", where it is one of `addresses`.
std::optional<IpAddress> one_of(std::string_view word, const std::set<IpAddress>& addresses) {
  const auto address = parse_ip(word.substr(0, word.find('/')));
  if (!address || !addresses.contains(*address)) return std::nullopt;
  return address;
}

bool starts_stanza(const Words& words) {
  static const std::set<std::string, std::less<>> kKeywords{"iface",        "mapping",          "auto",
                                                            "source",       "source-directory", "rename",
                                                            "no-auto-down", "no-scripts",       "template"};
  return !words.empty() && (kKeywords.contains(words[0]) || words[0].starts_with("allow-"));
}

bool is_hook(const std::string& word) {
  static const std::set<std::string, std::less<>> kHooks{"pre-up", "up",       "post-up",
                                                         "down",   "pre-down", "post-down"};
  return kHooks.contains(word);
}

bool abbreviates(std::string_view word, std::string_view full) {
  return !word.empty() && full.starts_with(word);
}

enum class Hook { other, ours, unclear };

// Where in `words` an `ip [options] address ...` begins: the place behind its object; 0 where there is none.
std::size_t behind_ip_address(const Words& words, std::size_t& begin) {
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i].substr(words[i].rfind('/') + 1) != "ip") continue;
    std::size_t at = i + 1;
    while (at < words.size() && words[at].starts_with('-'))
      at += words[at] == "-family" || words[at] == "-f" ? 2 : 1;
    if (at >= words.size() || !abbreviates(words[at], "address")) continue;
    begin = i;
    return at + 1;
  }
  return 0;
}

// What a hook line is to us: a plain `ip addr add|del ADDRESS ... dev DEV`, something compound with one, or
// neither.
Hook classify(const Words& words, std::string_view dev, const std::set<IpAddress>& addresses,
              IpAddress& which) {
  std::optional<IpAddress> named;
  for (const std::string& word : words)
    if (const auto hit = one_of(word, addresses)) named = hit;
  std::size_t begin = 0;
  const std::size_t at = behind_ip_address(words, begin);
  if (!named || at == 0) return Hook::other;
  which = *named;
  if (begin != 1) return Hook::unclear;
  Words rest(words.begin() + static_cast<std::ptrdiff_t>(at), words.end());
  for (std::string_view end : {"true", ":"})  // "|| true"
    if (rest.size() > 2 && rest.back() == end && rest[rest.size() - 2] == "||") rest.resize(rest.size() - 2);
  for (const std::string& word : rest)
    if (word.find_first_of(";&|`(){}<>") != std::string::npos && !word.starts_with("${"))
      return Hook::unclear;
  const auto device = std::ranges::find(rest, "dev");
  if (device == rest.end() || device + 1 == rest.end()) return Hook::unclear;
  const std::string on = device[1];
  if (on != dev && on != "$IFACE" && on != "${IFACE}" && on != "\"$IFACE\"" && on != "--") return Hook::other;
  return Hook::ours;
}

struct Stanza {
  std::size_t begin = 0;  // the iface line
  std::size_t end = 0;    // one past its last option line
  std::string name;       // eth0 or eth0:1
};

std::vector<Stanza> stanzas_of(const std::vector<Line>& lines, std::string_view dev) {
  std::vector<Stanza> stanzas;
  bool inside = false;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const Words& words = lines[i].words;
    if (starts_stanza(words)) {
      inside = words[0] == "iface" && words.size() >= 2 && words[1].substr(0, words[1].find(':')) == dev;
      if (inside) stanzas.push_back({i, i + 1, words[1]});
    } else if (inside && !words.empty()) {
      stanzas.back().end = i + 1;
    }
  }
  return stanzas;
}

bool belongs_to_address(const std::string& word) {
  static const std::set<std::string, std::less<>> kOptions{
      "address", "netmask", "broadcast",          "network",      "gateway",      "pointopoint",
      "scope",   "metric",  "preferred-lifetime", "dad-attempts", "dad-interval", "media"};
  return kOptions.contains(word);
}

void make_manual(Line& line) {
  const std::size_t at = line.raw.find("static");
  if (at != std::string::npos) line.raw.replace(at, 6, "manual");
}

// Takes `name` out of the auto and allow-* lines; the line goes with its last name.
void forget_name(std::vector<Line>& lines, const std::string& name) {
  for (Line& line : lines) {
    if (line.words.size() < 2 || (line.words[0] != "auto" && !line.words[0].starts_with("allow-"))) continue;
    const auto found = std::find(line.words.begin() + 1, line.words.end(), name);
    if (found == line.words.end()) continue;
    line.words.erase(found);
    line.gone = line.words.size() == 1;
    line.raw = join(line.words, " ") + "\n";
  }
}

bool named_at_boot(const std::vector<Line>& lines, const std::string& name) {
  return std::ranges::any_of(lines, [&](const Line& line) {
    return line.words.size() > 1 && (line.words[0] == "auto" || line.words[0].starts_with("allow-")) &&
           std::find(line.words.begin() + 1, line.words.end(), name) != line.words.end();
  });
}

// The stanza's own address, where it is a static one.
std::optional<IpAddress> static_address(const std::vector<Line>& lines, const Stanza& stanza,
                                        const std::set<IpAddress>& addresses) {
  const Words& head = lines[stanza.begin].words;
  if (head.size() < 4 || head[3] != "static") return std::nullopt;
  for (std::size_t i = stanza.begin + 1; i < stanza.end; ++i)
    if (lines[i].words.size() >= 2 && lines[i].words[0] == "address")
      return one_of(lines[i].words[1], addresses);
  return std::nullopt;
}

void drop_static(std::vector<Line>& lines, const Stanza& stanza, bool others_left) {
  bool holds_more = false;
  for (std::size_t i = stanza.begin + 1; i < stanza.end; ++i)
    if (!lines[i].gone && !lines[i].words.empty() && !belongs_to_address(lines[i].words[0]))
      holds_more = true;
  const bool alias = stanza.name.find(':') != std::string::npos;
  const bool becomes_manual = holds_more || (!alias && !others_left && named_at_boot(lines, stanza.name));
  for (std::size_t i = stanza.begin; i < stanza.end; ++i)
    if (!becomes_manual || (!lines[i].words.empty() && belongs_to_address(lines[i].words[0])))
      lines[i].gone = true;
  if (becomes_manual)
    make_manual(lines[stanza.begin]);
  else if (!others_left)
    forget_name(lines, stanza.name);
}

}  // namespace

ConfigEdit edit_interfaces(std::string_view text, std::string_view dev,
                           const std::set<IpAddress>& addresses) {
  ConfigEdit edit;
  std::vector<Line> lines = lines_of(text, true);
  const std::vector<Stanza> stanzas = stanzas_of(lines, dev);
  // Hooks may stand in any interface's stanza.
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].words.empty() || !is_hook(lines[i].words[0])) continue;
    const bool in_ours =
        std::ranges::any_of(stanzas, [&](const Stanza& s) { return s.begin < i && i < s.end; });
    IpAddress which;
    const Hook hook = classify(lines[i].words, dev, addresses, which);
    const bool by_variable = lines[i].raw.find("IFACE") != std::string::npos;
    if (hook == Hook::other || (by_variable && !in_ours)) continue;
    if (hook == Hook::unclear) {
      edit.unclear.push_back(std::string(trim(lines[i].raw)));
      continue;
    }
    if (lines[i].words[0].ends_with("up")) edit.found.insert(which);
    lines[i].gone = true;
  }
  for (const Stanza& stanza : stanzas) {
    const auto address = static_address(lines, stanza, addresses);
    if (!address) continue;
    edit.found.insert(*address);
    const bool others_left = std::ranges::any_of(stanzas, [&](const Stanza& other) {
      return other.begin != stanza.begin && other.name == stanza.name && !lines[other.begin].gone;
    });
    drop_static(lines, stanza, others_left);
  }
  edit.text = text_of(lines);
  return edit;
}

bool sources_interfaces_d(std::string_view text) {
  for (const Line& line : lines_of(text, true)) {
    if (line.words.size() < 2) continue;
    std::string_view target = line.words[1];
    if (line.words[0] == "source" && target.ends_with("interfaces.d/*")) return true;
    while (target.ends_with('/')) target.remove_suffix(1);
    if (line.words[0] == "source-directory" && target.ends_with("interfaces.d")) return true;
    if (line.words[0] == "source" && target.ends_with("interfaces.d")) return true;
  }
  return false;
}

std::string interfaces_stanzas(std::string_view dev, const std::vector<Prefixed>& addresses,
                               std::string_view comment) {
  std::string text = fmt::format("# {}\n", comment);
  for (const Prefixed& one : addresses)
    text += fmt::format("iface {} {} static\n\taddress {}/{}\n{}", dev, one.address.v6 ? "inet6" : "inet",
                        to_string(one.address), one.prefix, one.address.v6 ? "\tdad-attempts 0\n" : "");
  return text;
}

ConfigEdit edit_networkd(std::string_view text, const std::set<IpAddress>& addresses) {
  ConfigEdit edit;
  std::vector<Line> lines = lines_of(text, false);
  std::string section;
  std::size_t section_at = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::string_view line = trim(lines[i].raw);
    if (line.starts_with('[')) {
      section = line;
      section_at = i;
    }
    const std::size_t equals = line.find('=');
    if (line.starts_with('#') || line.starts_with(';') || equals == std::string_view::npos) continue;
    if (trim(line.substr(0, equals)) != "Address") continue;
    const auto hit = one_of(trim(line.substr(equals + 1)), addresses);
    if (!hit) continue;
    edit.found.insert(*hit);
    lines[i].gone = true;
    if (section != "[Address]") continue;
    for (std::size_t k = section_at; k < lines.size(); ++k) {
      if (k > section_at && trim(lines[k].raw).starts_with('[')) break;
      lines[k].gone = true;
    }
  }
  edit.text = text_of(lines);
  return edit;
}

std::string networkd_addresses(const std::vector<Prefixed>& addresses, std::string_view comment) {
  std::string text = fmt::format("# {}\n[Network]\n", comment);
  for (const Prefixed& one : addresses)
    text += fmt::format("Address={}/{}\n", to_string(one.address), one.prefix);
  return text;
}

bool is_blank_config(std::string_view text) {
  return std::ranges::all_of(lines_of(text, true), [](const Line& line) {
    const std::string_view rest = trim(line.raw);
    return rest.empty() || rest.starts_with('#') || rest == "[Network]";
  });
}

}  // namespace midstream
