//! The ports over the wire, in process and over a socket: what is asked and what is answered arrives whole.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod echo;

use std::{sync::Arc, time::Duration};

use echo::{Asked, Echo, Ports, agent, at, id, letters, topic};
use guildhall_domain::{
    Call, ErrorCode, Principal, Result, TenantId,
    event::NewEvent,
    mail::{
        Answer, Body, Lease, Mailbox, NewMessage, NewRequest, Priority, Recipient, RequestState,
        body::BODY_MAX_BYTES,
        delivery::{DeadLetterQuery, DeadLetterSelection, HistoryQuery, Settling, TakeMail, Unread, Verdict},
    },
};
use guildhall_mail::grpc;
use guildhall_rpc::{RemoteOptions, ServeOptions, Transport, serve};
use guildhall_runtime::{Listener, Shutdown};

fn call() -> Call {
    Call::new(Principal::hall(TenantId::default(), "gateway"))
}

fn in_process(echo: &Arc<Echo>) -> Ports {
    grpc::client(Transport::in_process(grpc::server(echo.clone(), echo.clone())))
}

fn over_tcp(echo: &Arc<Echo>) -> Ports {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "test").unwrap();
    let address = format!("http://{}", listener.address());
    let server = grpc::server(echo.clone(), echo.clone());
    tokio::spawn(async move { serve(listener, server, ServeOptions::default(), &Shutdown::default()).await.unwrap() });
    grpc::client(Transport::remote([address], RemoteOptions::new("mail")).unwrap())
}

const WAYS: [fn(&Arc<Echo>) -> Ports; 2] = [in_process, over_tcp];

fn new_message() -> NewMessage {
    NewMessage {
        to: Recipient::Capability("rust/fmt".into()),
        kind: "task_proposal".into(),
        priority: Priority::High,
        body: letters(),
        idempotency_key: Some("k".into()),
        reply_to: Some(id(1)),
        correlation_id: Some("c".into()),
        conversation_id: Some("d".into()),
        expires_in: Some(Duration::from_millis(1_500)),
        requires_response: true,
    }
}

#[tokio::test]
async fn mail_is_sent_taken_and_settled_with_all_that_belongs_to_it() {
    for way in WAYS {
        let echo = Arc::new(Echo::default());
        let (mail, _) = way(&echo);
        let (call, a) = (call(), agent("a"));

        let bare = NewMessage::new(Recipient::Pool("builders".into()), Body::from_text("null").unwrap());
        let priorities = Priority::ALL.map(|priority| NewMessage { priority, ..bare.clone() });
        let messages = [vec![new_message()], priorities.to_vec()].concat();
        assert_eq!(mail.send(&call, messages.clone()).await.unwrap(), echo::receipts());
        let take = TakeMail {
            limit: 100,
            wait: Duration::from_millis(1_234),
            taker: "socket-1".into(),
            lease: Duration::from_secs(300),
            told: true,
        };
        assert_eq!(mail.take(&call, &a, take.clone()).await.unwrap(), echo::delivered());
        let verdicts = [
            Verdict::Ack,
            Verdict::Nack { delay: Some(Duration::from_millis(10)), reason: Some("later".into()) },
            Verdict::Nack { delay: None, reason: None },
            Verdict::Refuse { reason: "never".into() },
            Verdict::Return,
            Verdict::Renew,
        ];
        let lease = Lease { mailbox: 7, number: 8, hand_out: 9 };
        let settlings = verdicts.map(|verdict| Settling { message_id: id(2), lease, verdict }).to_vec();
        assert_eq!(mail.settle(&call, &a, settlings.clone()).await.unwrap(), echo::settled());
        assert_eq!(mail.give_back(&call, &a, "socket-1").await.unwrap(), 3);
        let asked = [
            Asked::Send(messages),
            Asked::Take(a.clone(), take),
            Asked::Settle(a.clone(), settlings),
            Asked::GiveBack(a, "socket-1".into()),
        ];
        assert_eq!(echo.asked(), asked);
    }
}

#[tokio::test]
async fn mail_is_looked_at_with_all_that_belongs_to_it() {
    for way in WAYS {
        let echo = Arc::new(Echo::default());
        let (mail, _) = way(&echo);
        let (call, a, b) = (call(), agent("a"), agent("b"));

        let unread = mail.unread(&call, vec![a.clone(), b.clone()]).await.unwrap();
        assert_eq!(unread, [Unread { waiting: 5, critical: 2 }, Unread::default()]);
        assert_eq!(mail.peek(&call, &a, 17).await.unwrap(), [echo::message(1), echo::bare_message(2)]);
        let (after, newest) =
            (HistoryQuery { after: Some(id(3)), limit: 50 }, HistoryQuery { after: None, limit: 1_000 });
        assert_eq!(mail.history(&call, &a, after.clone()).await.unwrap(), echo::history());
        mail.history(&call, &a, newest.clone()).await.unwrap();
        assert_eq!(mail.message(&call, id(4)).await.unwrap(), echo::tracked());
        let asked = [
            Asked::Unread(vec![a.clone(), b]),
            Asked::Peek(a.clone(), 17),
            Asked::History(a.clone(), after),
            Asked::History(a, newest),
            Asked::Message(id(4)),
        ];
        assert_eq!(echo.asked(), asked);
    }
}

#[tokio::test]
async fn dead_letters_are_asked_for_and_named_with_all_that_belongs_to_them() {
    for way in WAYS {
        let echo = Arc::new(Echo::default());
        let (mail, _) = way(&echo);
        let (call, mailbox) = (call(), Some(Mailbox::Pool("p".into())));

        let query =
            DeadLetterQuery { mailbox: mailbox.clone(), message: Some(id(1)), after: Some((at(5), id(2))), limit: 10 };
        let selection = DeadLetterSelection { messages: vec![id(1), id(2)], mailbox, all: true };
        assert_eq!(mail.dead_letters(&call, query.clone()).await.unwrap(), echo::dead_letters());
        mail.dead_letters(&call, DeadLetterQuery::default()).await.unwrap();
        assert_eq!(mail.redrive(&call, selection.clone()).await.unwrap(), 1);
        assert_eq!(mail.redrive(&call, DeadLetterSelection::default()).await.unwrap(), 1);
        assert_eq!(mail.purge(&call, selection.clone()).await.unwrap(), 2);
        let asked = [
            Asked::DeadLetters(query),
            Asked::DeadLetters(DeadLetterQuery::default()),
            Asked::Redrive(selection.clone()),
            Asked::Redrive(DeadLetterSelection::default()),
            Asked::Purge(selection),
        ];
        assert_eq!(echo.asked(), asked);
    }
}

#[tokio::test]
async fn requests_are_asked_and_answered_with_all_that_belongs_to_them() {
    for way in WAYS {
        let echo = Arc::new(Echo::default());
        let (mail, _) = way(&echo);
        let call = call();

        let new = NewRequest { message: new_message(), timeout: Duration::from_millis(1_001), waits: true };
        let (wait, known) = (Duration::from_millis(40), Some(echo::progress()));
        let done = Answer::Done(letters());
        let failed = Answer::Failed("no".into());
        let states = [
            mail.request(&call, new.clone()).await,
            mail.request_state(&call, id(1), known.clone(), wait).await,
            mail.request_state(&call, id(1), None, Duration::ZERO).await,
            mail.answer(&call, id(1), done.clone()).await,
            mail.answer(&call, id(1), failed.clone()).await,
            mail.cancel_request(&call, id(1), "too late").await,
        ];
        let wanted = [
            RequestState::Pending,
            RequestState::TimedOut,
            RequestState::TimedOut,
            RequestState::Answered,
            RequestState::Failed,
            RequestState::Cancelled,
        ];
        assert_eq!(states.map(Result::unwrap), wanted.map(echo::request));
        mail.report_progress(&call, id(1), echo::progress()).await.unwrap();
        let asked = [
            Asked::Request(new),
            Asked::RequestState(id(1), known, wait),
            Asked::RequestState(id(1), None, Duration::ZERO),
            Asked::Answer(id(1), done),
            Asked::Answer(id(1), failed),
            Asked::Cancel(id(1), "too late".into()),
            Asked::Progress(id(1), echo::progress()),
        ];
        assert_eq!(echo.asked(), asked);
    }
}

#[tokio::test]
async fn topics_travel_with_all_that_belongs_to_them() {
    for way in WAYS {
        let echo = Arc::new(Echo::default());
        let (_, topics) = way(&echo);
        let (call, t, a) = (call(), topic(), agent("a"));

        let event = NewEvent {
            content: letters(),
            headers: vec![("b".into(), "2".into()), ("a".into(), "ä".into())],
            idempotency_key: Some("k".into()),
        };
        let plain = NewEvent { content: letters(), headers: vec![], idempotency_key: None };
        let schema = echo::schema().schema;
        let filter = Some("event.n > 1".to_owned());
        assert_eq!(topics.publish(&call, &t, event.clone()).await.unwrap(), echo::published());
        topics.publish(&call, &t, plain.clone()).await.unwrap();
        assert_eq!(topics.set_schema(&call, &t, schema.clone(), true).await.unwrap(), echo::schema());
        assert_eq!(topics.schema(&call, &t, Some(3)).await.unwrap(), Some(echo::schema()));
        assert_eq!(topics.schema(&call, &t, None).await.unwrap(), None);
        assert_eq!(topics.subscribe(&call, &t, &a, filter.clone()).await.unwrap(), echo::subscribers()[0]);
        topics.subscribe(&call, &t, &a, None).await.unwrap();
        assert!(topics.unsubscribe(&call, &t, &a).await.unwrap());
        assert_eq!(topics.subscribers(&call, &t).await.unwrap(), echo::subscribers());
        assert_eq!(topics.topics(&call).await.unwrap(), echo::topics());
        let asked = [
            Asked::Publish(t.clone(), event),
            Asked::Publish(t.clone(), plain),
            Asked::SetSchema(t.clone(), schema, true),
            Asked::Schema(t.clone(), Some(3)),
            Asked::Schema(t.clone(), None),
            Asked::Subscribe(t.clone(), a.clone(), filter),
            Asked::Subscribe(t.clone(), a.clone(), None),
            Asked::Unsubscribe(t.clone(), a),
            Asked::Subscribers(t),
            Asked::Topics,
        ];
        assert_eq!(echo.asked(), asked);
    }
}

fn of_bytes(bytes: usize) -> NewMessage {
    let body = Body::from_value(&"x".repeat(bytes - 2)).unwrap();
    NewMessage::new(Recipient::Agent(agent("b")), body)
}

#[tokio::test]
async fn a_list_of_more_than_4_mib_is_refused_whole_and_one_of_less_passes_every_way() {
    for way in WAYS {
        let echo = Arc::new(Echo::default());
        let (mail, _) = way(&echo);
        let full = vec![of_bytes(BODY_MAX_BYTES); 5];
        mail.send(&call(), full.clone()).await.unwrap();
        assert_eq!(echo.asked(), [Asked::Send(full)]);
        let refused = mail.send(&call(), vec![of_bytes(BODY_MAX_BYTES); 100]).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
        assert!(refused.message.contains("4194304"), "{refused}");
        assert_eq!(echo.asked(), []);
    }
}

#[tokio::test]
async fn a_page_too_large_for_the_wire_is_refused_and_says_what_to_ask_for() {
    for way in WAYS {
        let (mail, _) = way(&Arc::new(Echo::with_bodies_of(BODY_MAX_BYTES)));
        let query = |limit| HistoryQuery { after: None, limit };
        assert_eq!(mail.history(&call(), &agent("a"), query(40)).await.unwrap().messages.len(), 40);
        let refused = mail.history(&call(), &agent("a"), query(50)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
        assert!(refused.message.contains("smaller limit"), "{refused}");
    }
}

#[tokio::test]
async fn within_the_process_a_body_is_handed_on_and_not_copied() {
    let echo = Arc::new(Echo::default());
    for (way, same) in [(in_process as fn(&Arc<Echo>) -> Ports, true), (over_tcp, false)] {
        let (mail, _) = way(&echo);
        let message = of_bytes(1_000);
        mail.send(&call(), vec![message.clone()]).await.unwrap();
        let Asked::Send(arrived) = &echo.asked()[0] else { panic!("not a sending") };
        assert_eq!(arrived[0].body.as_text().as_ptr() == message.body.as_text().as_ptr(), same);
    }
}

#[tokio::test]
async fn a_body_arrives_letter_for_letter() {
    for way in WAYS {
        let echo = Arc::new(Echo::default());
        let (mail, _) = way(&echo);
        for text in ["null", "\"\\ud83d\\ude00 \u{1f600}\"", "[ 1 , 2.50 ]", "-0.0", echo::LETTERS] {
            let message = NewMessage::new(Recipient::Everyone, Body::from_text(text).unwrap());
            mail.send(&call(), vec![message.clone()]).await.unwrap();
            let Asked::Send(arrived) = &echo.asked()[0] else { panic!("not a sending") };
            assert_eq!(arrived[0].body.as_text(), text);
        }
    }
}
