#include "movers/mail/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "base/text.h"

namespace midstream::mail {

namespace {

std::string begin_mark(std::string_view move, Place place) {
  return fmt::format("# midstream {} {} begin: put back when the move ends, do not edit\n", move,
                     place == Place::head ? "head" : "tail");
}
std::string end_mark(std::string_view move, Place place) {
  return fmt::format("# midstream {} {} end\n", move, place == Place::head ? "head" : "tail");
}

std::string aside_mark(std::string_view move) { return fmt::format("#midstream {}# ", move); }

// What a line of main.cf sets; "" where it begins no setting.
std::string name_set_by(std::string_view line) {
  if (line.empty() || std::isspace(static_cast<unsigned char>(line.front())) != 0 || line.front() == '#') return "";
  return std::string(trim(line.substr(0, line.find('='))));
}

}  // namespace

bool is_mail_user(std::string_view name) {
  if (name.empty() || name.size() > 120 || name.front() == '-' || name.front() == '.') return false;
  return std::ranges::all_of(name, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("._@+=-").find(c) != std::string_view::npos;
  });
}

std::string with_block(std::string_view text, std::string_view move, Place place, std::string_view body) {
  const auto bare = without_block(text, move, place).value_or(std::string(text));
  const auto block = begin_mark(move, place) + std::string(body) + end_mark(move, place);
  if (place == Place::head) return block + bare;
  // A last line without its newline keeps that: the newline is ours, and said so.
  return bare + (bare.empty() || bare.ends_with('\n') ? "" : "\n") + block +
         (bare.empty() || bare.ends_with('\n') ? "" : "# no newline\n");
}

Result<std::string> without_block(std::string_view text, std::string_view move, Place place) {
  const auto begin = begin_mark(move, place);
  const auto end = end_mark(move, place);
  const auto from = text.find(begin);
  const auto to = text.find(end);
  if (from == std::string_view::npos && to == std::string_view::npos) return std::string(text);
  if (from == std::string_view::npos || to == std::string_view::npos || to < from)
    return corrupt("midstream's block has lost one of its marks", "restore the mark, or take the block out by hand");
  std::string before(text.substr(0, from));
  std::string after(text.substr(to + end.size()));
  if (place == Place::tail && after.starts_with("# no newline\n") && before.ends_with('\n')) {
    before.pop_back();
    after.erase(0, std::string_view("# no newline\n").size());
  }
  return before + after;
}

std::string with_settings(std::string_view text, std::string_view move, std::string_view body) {
  const auto bare = without_settings(text, move).value_or(std::string(text));
  std::set<std::string> names;
  for (const auto& line : split(body, '\n'))
    if (const auto name = name_set_by(line); !name.empty()) names.insert(name);
  bool aside = false;
  auto lines = split(bare, '\n');
  for (auto& line : lines) {
    // A line that begins with a space goes on with the setting above it; comments and empty lines may stand between.
    if (const auto name = name_set_by(line); !name.empty()) aside = names.contains(name);
    const bool speaks = !trim(line).empty() && trim(line).front() != '#';
    if (aside && speaks) line = aside_mark(move) + line;
  }
  return with_block(join(lines, "\n"), move, Place::tail, body);
}

Result<std::string> without_settings(std::string_view text, std::string_view move) {
  const auto bare = TRY(without_block(text, move, Place::tail));
  const auto mark = aside_mark(move);
  auto lines = split(bare, '\n');
  for (auto& line : lines)
    if (line.starts_with(mark)) line.erase(0, mark.size());
  return join(lines, "\n");
}

std::string map_line(const Standing& standing, std::string_view other_address, std::uint64_t serial) {
  const auto& title = standing.title;
  std::string fields = "noauthenticate";
  // No proxy_timeout: a delivery whose answer is given up for lost would be made once more.
  const auto proxied = fmt::format(" proxy=y host={} starttls=any-cert", other_address);
  if (title.holding == Holding::yielding) {
    fields += fmt::format("{} delay_until={} userdb_tempfail=yes", proxied, standing.held_until);
  } else if (!title.home() && standing.taking) {
    fields += " userdb_tempfail=yes";
  } else if (!title.home()) {
    fields += proxied;
  }
  return fmt::format("{}:::::::{} serial={}\n", standing.user, fields, serial);
}

std::string dovecot_head(std::string_view map_path) {
  return fmt::format(
      "passdb {{\n  driver = passwd-file\n  args = {0}\n  result_success = continue\n  result_failure = continue\n"
      "  result_internalfail = return-fail\n}}\n"
      "protocol !doveadm {{\n  userdb {{\n    driver = passwd-file\n    args = {0}\n    result_success = continue\n"
      "    result_internalfail = return-fail\n  }}\n}}\n",
      map_path);
}

std::string dovecot_tail(std::string_view trusted_networks) {
  return fmt::format("login_trusted_networks = {}\nverbose_proctitle = yes\nprotocol lmtp {{\n  lmtp_proxy = yes\n}}\n",
                     trusted_networks);
}

}  // namespace midstream::mail
