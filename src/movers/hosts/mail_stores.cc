#include "movers/hosts/mail_stores.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "sys/child.h"

namespace midstream {

namespace {

constexpr std::size_t kAtOnce = 500;  // users in one command line

Result<std::vector<std::string>> lines_of(const std::vector<std::string>& argv, Deadline deadline) {
  const auto exit = TRY(run_child(argv, "", deadline));
  if (exit.code != 0)
    return retry(
        fmt::format("{} ended with {}: {}", argv[0], exit.code, printable(exit.err.substr(0, exit.err.find('\n')))));
  auto lines = split(exit.out, '\n');
  std::erase(lines, "");
  return lines;
}

}  // namespace

std::string MailStores::root() const {
  if (homes.empty()) return "";
  const auto [least, most] = std::ranges::minmax(homes);
  const auto differ = std::ranges::mismatch(least, most).in1;
  return least.substr(0, least.rfind('/', static_cast<std::size_t>(differ - least.begin())));
}

Result<MailStores> mail_stores(Deadline deadline) {
  MailStores stores;
  const auto users = TRY(lines_of({"doveadm", "user", "*"}, deadline));
  for (std::size_t from = 0; from < users.size(); from += kAtOnce) {
    std::vector<std::string> argv{"doveadm", "user", "-f", "home"};
    for (auto at = from; at < std::min(users.size(), from + kAtOnce); ++at)
      if (!users[at].starts_with('-')) argv.push_back(users[at]);
    for (auto& home : TRY(lines_of(argv, deadline)))
      if (home.starts_with('/')) stores.homes.push_back(std::move(home));
  }
  const auto queue = lines_of({"postconf", "-h", "queue_directory"}, deadline);
  if (queue && !queue->empty()) stores.queue = queue->front();
  return stores;
}

}  // namespace midstream
