#include "gate/titles.h"

#include <fmt/format.h>
#include <poll.h>

#include <array>

#include "base/text.h"
#include "gate/belongings.h"
#include "sys/stream.h"

namespace midstream::gate {

namespace {

using namespace std::literals;

// A cluster that recovers from another's log shows that one's row.
constexpr std::string_view kQuestion = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'standby' ELSE state END FROM midstream.owner";

}  // namespace

Result<> Asker::connect(Deadline deadline, const std::stop_token& stop) {
  ServerLogin::Setting setting{.parameters = {{"user", config_.lookup_user}, {"database", database_}, {"application_name", "midstream gate"}},
                               .secret = config_.lookup_password, .nonce = random_nonce()};
  link_ = std::make_unique<ServerLink>(server_, std::move(setting), [](int) { return true; });
  for (;;) {
    const auto state = link_->step();
    if (state == ServerLink::State::ready) return {};
    if (state == ServerLink::State::failed) return retry(link_->why());
    // It may read or write next, and does not say which: looked at again soon in either case.
    pollfd watched{link_->socket().fd(), static_cast<short>(state == ServerLink::State::connecting ? POLLOUT : POLLIN), 0};
    (void)::poll(&watched, 1, 20);
    if (deadline.expired() || stop.stop_requested()) return retry(fmt::format("{} does not answer in time", server_.config.label));
  }
}

Result<std::vector<std::string>> Asker::ask(std::string_view sql, Deadline deadline, const std::stop_token& stop) {
  if (!link_) {
    if (const auto connected = connect(deadline, stop); !connected) return link_.reset(), std::unexpected(connected.error());
  }
  // Taken until it has answered: whatever goes wrong, the next question has a new connection.
  auto link = std::move(link_);
  Exchange question(message('Q', std::string(sql) + '\0'), 1);
  std::array<char, 4'096> bytes;
  std::string in = link->take_rest();
  while (!question.done()) {
    std::size_t n = 0;
    auto& out = question.to_send();
    if (!out.empty() && link->socket().write(out, n) == Io::done) out.erase(0, n);
    const auto io = link->socket().read(bytes, n);
    if (io == Io::done) in.append(bytes.data(), n);
    else if (io != Io::blocked) return retry(fmt::format("{} closed the gate's connection", server_.config.label));
    std::string_view view = in;
    question.from_server(view);
    in.erase(0, in.size() - view.size());
    if (io == Io::done || question.done()) continue;
    CHECK_OK(wait_fd(link->socket().fd(), out.empty() ? POLLIN : POLLIN | POLLOUT, deadline, stop));
  }
  if (question.broken()) return retry(fmt::format("{}: {}", server_.config.label, printable(question.error())));
  link_ = std::move(link);
  if (!question.error().empty()) return refused(fmt::format("{}: {}", server_.config.label, printable(question.error())));
  std::vector<std::string> column;
  for (const auto& row : question.rows())
    if (!row.empty()) column.push_back(row[0]);
  return column;
}

Result<std::string> Asker::title(Deadline deadline, const std::stop_token& stop) {
  const auto column = ask(kQuestion, deadline, stop);
  if (!column && column.error().kind == ErrorKind::refused) return "";  // there is no such table: no title
  if (!column) return std::unexpected(column.error());
  return column->empty() ? "" : column->front();
}

Titles::Titles(const Shared& shared, const std::string& database) : shared_(shared) {
  for (const auto& server : shared.servers) askers_.push_back(std::make_unique<Asker>(shared.config, server, database));
}

Result<std::set<std::string>> Titles::settings(std::size_t server, Millis patience, const std::stop_token& stop) {
  auto names = askers_[server]->ask(kSettingsOfDatabase, Deadline::in(patience), stop);
  // A table may be dropped while its texts are read: that passes.
  if (!names && names.error().kind == ErrorKind::refused) names.error().kind = ErrorKind::retry;
  const auto found = TRY(std::move(names));
  return std::set<std::string>(found.begin(), found.end());
}

Titles::Found Titles::look(Millis patience, const std::stop_token& stop) {
  Found found;
  for (std::size_t i = 0; i < askers_.size(); ++i) {
    const auto state = askers_[i]->title(Deadline::in(patience), stop);
    found.words += fmt::format("{}{}: {}", i == 0 ? "" : ", ", shared_.servers[i].config.label,
                               !state ? state.error().what : state->empty() ? "no title" : printable(*state));
    if (!state || *state != "owner") continue;
    found.several = found.owner.has_value();
    found.owner = i;
  }
  if (found.several) found.owner.reset();
  return found;
}

}  // namespace midstream::gate
