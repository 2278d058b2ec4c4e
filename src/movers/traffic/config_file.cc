#include "movers/traffic/config_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"

namespace midstream::haproxy {

namespace {

struct Word {
  std::string text;       // unquoted
  std::size_t begin = 0;  // where it stands in the file
  std::size_t end = 0;
  bool open = false;  // a quote, or a backslash, of it is not closed on the line: what is appended would belong to it
};

struct Section {
  std::string kind;  // "backend", "defaults" ...
  std::string name;
  std::string from;  // the named defaults that it asks for
  std::vector<std::vector<Word>> lines;
};

constexpr auto kSections = std::to_array<std::string_view>(
    {"global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "mailers", "userlist", "http-errors",
     "cache", "program", "ring", "fcgi-app", "log-forward", "crt-store", "traces", "acme", "log-profile"});

char unescaped(char c) {
  switch (c) {
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return c;
  }
}

// The words of the line that begins at `at`; moves `at` behind its newline.
std::vector<Word> next_line(std::string_view file, std::size_t& at) {
  std::vector<Word> words;
  bool in_word = false;
  char quote = 0;
  auto open = [&](std::size_t where) {
    if (!in_word) words.push_back({"", where, where});
    in_word = true;
  };
  bool comment = false;
  for (; at < file.size() && file[at] != '\n'; ++at) {
    const char c = file[at];
    if (comment) continue;
    if (quote == 0 && c == '#') {
      comment = true;
      in_word = false;
    } else if (quote == 0 && (c == ' ' || c == '\t' || c == '\r')) {
      in_word = false;
    } else if (quote == 0 && (c == '"' || c == '\'')) {
      open(at);
      quote = c;
    } else if (quote != 0 && c == quote) {
      quote = 0;
    } else if (c == '\\' && quote != '\'' && at + 1 < file.size() && file[at + 1] != '\n') {
      open(at);
      words.back().text += unescaped(file[++at]);
    } else {
      open(at);
      words.back().text += c;
      words.back().open = c == '\\' && quote != '\'';
    }
    if (in_word) words.back().end = at + 1;
  }
  if (at < file.size()) ++at;
  if (quote != 0) words.back().open = true;
  return words;
}

std::vector<Section> sections_of(std::string_view file) {
  std::vector<Section> sections;
  for (std::size_t at = 0; at < file.size();) {
    auto words = next_line(file, at);
    if (words.empty()) continue;
    if (std::find(kSections.begin(), kSections.end(), words[0].text) != kSections.end()) {
      Section section{words[0].text, words.size() > 1 ? words[1].text : "", "", {}};
      for (std::size_t i = 1; i + 1 < words.size(); ++i) {
        if (words[i].text == "from") section.from = words[i + 1].text;
      }
      sections.push_back(std::move(section));
    } else if (!sections.empty()) {
      sections.back().lines.push_back(std::move(words));
    }
  }
  return sections;
}

bool has_servers(const Section& section) { return section.kind == "backend" || section.kind == "listen"; }

Result<Section> find_backend(const std::vector<Section>& sections, std::string_view backend) {
  for (const auto& section : sections) {
    if (has_servers(section) && section.name == backend) return section;
  }
  return refused(fmt::format("the configuration file has no backend '{}'", backend),
                 "name the file that HAProxy really reads it from");
}

bool is_weight(std::string_view text) {
  return !text.empty() && text.size() <= 3 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The number behind the last `weight` of a server line, which is the one that counts; null where there is
// none.
const Word* weight_of(const std::vector<Word>& line, std::size_t first) {
  const Word* found = nullptr;
  for (std::size_t i = first; i + 1 < line.size(); ++i) {
    if (line[i].text == "weight" && is_weight(line[i + 1].text)) found = &line[i + 1];
  }
  return found;
}

Result<const std::vector<Word>*> server_line(const Section& section, const std::string& server) {
  for (const auto& line : section.lines) {
    if (line.size() < 3 || line[0].text != "server" || line[1].text != server) continue;
    if (line.back().open)
      return refused(fmt::format("a quote or backslash on the line of server {} in backend {} is not closed", server, section.name),
                     "close it; HAProxy would not start with this file");
    return &line;
  }
  return refused(fmt::format("the configuration file has no line 'server {}' in backend {}", server, section.name),
                 "servers made by server-template or at run time cannot be kept over a reload: write them out");
}

constexpr std::size_t kServerOptions = 3;  // server NAME ADDRESS options...

void read_settings(const Section& section, BalanceSettings& into) {
  for (const auto& line : section.lines) {
    const auto& word = line[0].text;
    auto argument = [&](std::size_t i) { return i < line.size() ? line[i].text : std::string(); };
    if (word == "balance") into.balance = argument(1);
    if (word == "hash-type") into.consistent_hash = argument(1) == "consistent";
    if (word == "cookie" || word == "appsession") into.sticky.push_back(fmt::format("{} {}", word, argument(1)));
    if (word == "stick") into.sticky.push_back(fmt::format("stick {}", argument(1)));
    if (word == "persist") into.sticky.push_back(fmt::format("persist {}", argument(1)));
    if (word == "default-server") {
      if (const Word* weight = weight_of(line, 1)) into.default_weight = weight->text;
    }
  }
}

}  // namespace

Result<WrittenWeights> written_weights(std::string_view file, std::string_view backend,
                                       const std::vector<std::string>& servers) {
  const auto section = TRY(find_backend(sections_of(file), backend));
  WrittenWeights written;
  for (const auto& server : servers) {
    const Word* weight = weight_of(*TRY(server_line(section, server)), kServerOptions);
    written[server] = weight == nullptr ? std::nullopt : std::optional(weight->text);
  }
  return written;
}

Result<std::string> rewrite_weights(std::string_view file, std::string_view backend, const WrittenWeights& weights) {
  const auto section = TRY(find_backend(sections_of(file), backend));
  struct Edit {
    std::size_t begin;
    std::size_t end;
    std::string text;
  };
  std::vector<Edit> edits;
  for (const auto& [server, wanted] : weights) {
    const auto& line = *TRY(server_line(section, server));
    const Word* weight = weight_of(line, kServerOptions);
    if (weight == nullptr && wanted)
      edits.push_back({line.back().end, line.back().end, fmt::format(" weight {}", *wanted)});
    if (weight != nullptr && wanted && weight->text != *wanted) edits.push_back({weight->begin, weight->end, *wanted});
    if (weight != nullptr && !wanted) {
      const Word& before = *(weight - 2);  // "weight" stands between; kServerOptions leaves at least the address
      edits.push_back({before.end, weight->end, ""});
    }
  }
  std::sort(edits.begin(), edits.end(), [](const Edit& a, const Edit& b) { return a.begin > b.begin; });
  std::string out(file);
  for (const auto& edit : edits) out.replace(edit.begin, edit.end - edit.begin, edit.text);
  return out;
}

Result<BalanceSettings> balance_settings(std::string_view file, std::string_view backend) {
  const auto sections = sections_of(file);
  const auto section = TRY(find_backend(sections, backend));
  const Section* defaults = nullptr;
  for (const auto& candidate : sections) {
    if (has_servers(candidate) && candidate.name == section.name) break;
    if (candidate.kind == "defaults" && section.from.empty()) defaults = &candidate;
  }
  if (!section.from.empty()) {
    for (const auto& candidate : sections) {
      if (candidate.kind == "defaults" && candidate.name == section.from) defaults = &candidate;
    }
  }
  BalanceSettings settings;
  if (defaults != nullptr) read_settings(*defaults, settings);
  read_settings(section, settings);
  return settings;
}

bool is_dynamic(const BalanceSettings& settings) {
  const auto& name = settings.balance;
  if (name == "roundrobin" || name == "leastconn" || name.starts_with("random")) return true;
  if (name == "static-rr" || name == "first") return false;
  return settings.consistent_hash;
}

}  // namespace midstream::haproxy
