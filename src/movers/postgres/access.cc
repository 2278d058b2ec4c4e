#include "movers/postgres/access.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "movers/postgres/as_user.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

std::string head(std::string_view move) {
  return fmt::format("# BEGIN midstream {} - kept by midstream, taken away when the move ends\n", move);
}
std::string tail(std::string_view move) { return fmt::format("# END midstream {}\n", move); }

Result<std::string> owner_of(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return errno_failure(fmt::format("cannot look at {}", path.native()), errno);
  passwd entry{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer{};
  ::getpwuid_r(status.st_uid, &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr) return refused(fmt::format("{} belongs to a user id without a name", path.native()));
  return std::string(entry.pw_name);
}

}  // namespace

std::vector<std::string> all_but(const std::string& address) {
  const int family = address.find(':') == std::string::npos ? AF_INET : AF_INET6;
  const int bits = family == AF_INET ? 32 : 128;
  std::array<unsigned char, 16> bytes{};
  if (::inet_pton(family, address.c_str(), bytes.data()) != 1) return {"all"};
  std::vector<std::string> networks{family == AF_INET ? "::/0" : "0.0.0.0/0"};
  // Those that differ in the bit at `length - 1`, and have the same before it.
  for (int length = 1; length <= bits; ++length) {
    auto other = bytes;
    const auto last = static_cast<std::size_t>(length - 1) / 8;
    other[last] = static_cast<unsigned char>((other[last] ^ (0x80 >> (length - 1) % 8)) & (0xff00 >> ((length - 1) % 8 + 1)));
    for (auto i = last + 1; i < other.size(); ++i) other[i] = 0;
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(family, other.data(), text.data(), text.size());
    networks.push_back(fmt::format("{}/{}", text.data(), length));
  }
  return networks;
}

Block find_block(std::string_view text, std::string_view move) {
  const auto begin = text.find(head(move));
  if (begin == std::string_view::npos) return {};
  const auto inside = begin + head(move).size();
  const auto end = text.find(tail(move), inside);
  if (end == std::string_view::npos) return {};
  const auto lines = [](std::string_view part) { return static_cast<int>(std::ranges::count(part, '\n')); };
  return {std::string(text.substr(inside, end - inside)), 1 + lines(text.substr(0, begin)),
          1 + lines(text.substr(0, end))};
}

std::string with_block(std::string_view text, std::string_view move, std::string_view lines) {
  std::string rest(text);
  const auto begin = rest.find(head(move));
  if (begin != std::string::npos) {
    const auto end = rest.find(tail(move), begin);
    if (end != std::string::npos) rest.erase(begin, end + tail(move).size() - begin);
  }
  if (lines.empty()) return rest;
  return fmt::format("{}{}{}{}", head(move), lines, tail(move), rest);
}

std::string hba_lines(const Plan& plan, std::string_view peer_address, const std::set<std::string>& hard_ones,
                      const std::set<std::string>& gated_ones) {
  const auto one_host = [](std::string_view address) { return fmt::format("{}/{}", address, address.find(':') == std::string_view::npos ? 32 : 128); };
  std::string out = fmt::format("local all {} peer map={}\n", plan.agent_role(), plan.agent_role());
  if (plan.gate.present()) out += fmt::format("host postgres {} {} scram-sha-256\n", plan.gate_role(), one_host(plan.gate.address));
  // The base backup, and what recovers from it; on the physical road either side's standby.
  if (plan.physical() || (plan.seeded() && peer_address == plan.new_end.address)) out += fmt::format("host replication {} {} scram-sha-256\n", plan.replication_role(), one_host(peer_address));
  for (const auto& database : plan.databases) {
    const bool gated = gated_ones.contains(database);
    const bool hard = gated || hard_ones.contains(database);
    const auto fence = plan.fence_role(database);
    const auto line = [&](std::string_view kind, std::string_view rest) {
      out += fmt::format("{} \"{}\" {}\n", kind, database, rest);
    };
    line("local", fmt::format("{} scram-sha-256", plan.probe_role()));
    line("host", fmt::format("{} {} scram-sha-256", plan.replication_role(), one_host(peer_address)));
    if (plan.gate.present()) line("host", fmt::format("{} {} scram-sha-256", plan.gate_role(), one_host(plan.gate.address)));
    line("local", hard ? "all reject" : fmt::format("+{} reject", fence));
    // Whom the file's own rules let in from the gate's address, they let in; nobody else.
    if (gated) for (const auto& network : all_but(plan.gate.address)) line("host", fmt::format("all {} reject", network));
    line("host", hard && !gated ? "all all reject" : fmt::format("+{} all reject", fence));
  }
  return out;
}

std::string ident_lines(const Plan& plan, std::string_view os_user) {
  return fmt::format("{} {} {}\n", plan.agent_role(), os_user, plan.agent_role());
}

Result<bool> set_block(const std::filesystem::path& path, std::string_view move, std::string_view lines) {
  const auto before = TRY(read_file(path));
  const auto after = with_block(before, move, lines);
  if (after == before) return false;
  const auto as = TRY(AsUser::enter(TRY(owner_of(path.parent_path()))));
  CHECK_OK(write_file_durably(path, after, 0640));
  return true;
}

}  // namespace midstream::postgres
