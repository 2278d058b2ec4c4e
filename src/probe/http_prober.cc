// GET over plain TCP or TLS, a new connection each time.
#include <fmt/format.h>

#include "probe/channel.h"
#include "base/http.h"
#include "probe/outcome.h"

namespace midstream {

namespace {

class HttpProber final : public Prober {
 public:
  HttpProber(HttpTarget target, Resolver& resolver, std::shared_ptr<TlsContext> tls)
      : target_(std::move(target)), resolver_(resolver), tls_(std::move(tls)) {}

  Finding probe(Deadline deadline, const std::stop_token& stop) override {
    const auto addresses = resolver_.lookup(target_.host, deadline, stop);
    if (!addresses) return failed_finding("dns", deadline);
    auto fd = connect_any(*addresses, target_.port, deadline, stop);
    if (!fd) return fd.error();
    auto channel = open_channel(std::move(*fd), tls_.get(), target_.host, deadline, stop);
    if (!channel) return failed_finding(channel.error(), deadline);
    return exchange(**channel, deadline, stop);
  }

 private:
  Finding exchange(Channel& channel, Deadline deadline, const std::stop_token& stop) const {
    const auto request = fmt::format(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: midstream-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n", target_.path,
        target_.authority);
    if (const auto sent = channel.write(request, deadline, stop); !sent) return failed_finding(sent.error(), deadline);
    HttpAnswer answer;
    auto state = HttpAnswer::State::reading;
    while (state == HttpAnswer::State::reading) {
      const auto bytes = channel.read(deadline, stop);
      if (!bytes) return failed_finding(bytes.error(), deadline);
      state = bytes->empty() ? answer.close() : answer.feed(*bytes);
    }
    auto finding = judge(answer, state, deadline);
    finding.host = answer.host();
    return finding;
  }

  static Finding judge(const HttpAnswer& answer, HttpAnswer::State state, Deadline deadline) {
    if (state == HttpAnswer::State::broken) return failed_finding(answer.status() == 0 ? "closed" : "truncated", deadline);
    if (answer.status() < 200 || answer.status() > 299) return {ProbeOutcome::failed, fmt::format("http-{}", answer.status()), ""};
    return {ProbeOutcome::ok, "", ""};
  }

  HttpTarget target_;
  Resolver& resolver_;
  std::shared_ptr<TlsContext> tls_;  // shared by the probes in flight; null for plain
};

}  // namespace

Result<std::unique_ptr<Prober>> make_http_prober(const HttpTarget& target, Resolver& resolver) {
  std::shared_ptr<TlsContext> tls;
  if (target.tls) tls = TRY(make_tls_context());
  return std::make_unique<HttpProber>(target, resolver, std::move(tls));
}

}  // namespace midstream
