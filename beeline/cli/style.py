"""The looks of a page: one style sheet, light and dark, for the phone and for paper."""

from __future__ import annotations

from beeline.cli.plots import DARK, LIGHT, NAMES


def sheet() -> str:
    """The style sheet, with the colours of the figures as variables."""
    light, dark = ("".join(f"--{NAMES[key]}:{value};" for key, value in theme.items()) for theme in (LIGHT, DARK))
    return (
        f":root{{{light}--paper:#fbfbfa;--panel:#ffffff}}\n"
        f"@media (prefers-color-scheme: dark){{:root{{{dark}--paper:#14171c;--panel:#1b1f26}}}}\n{RULES}"
    )


RULES = """\
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 0 0 .5rem }
p { margin: .6rem 0 }
a { color: var(--series-1) }
header > p { font-size: 1.1rem; color: var(--faint); max-width: 42rem; margin: .25rem 0 1rem }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: 0 }
section { margin: 2.75rem 0; scroll-margin-top: 1rem }
section > p, .prose, li, dl { max-width: 42rem }
figure { margin: 1rem 0; max-width: 31rem }
figcaption { font-size: .875rem; color: var(--faint) }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font-family: inherit !important }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem }
.row figure { margin: .5rem 0; max-width: 20rem }
.row figcaption { text-align: center }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th { font-weight: 600; text-align: left }
.scroll { overflow-x: auto }
.figures td, .figures th, details td, details th { padding: .35rem 1.1rem .35rem 0; white-space: nowrap;
  border-top: 1px solid var(--grid); vertical-align: top }
.figures thead td, .figures thead th { border-top: 0 }
.figures th[scope=row] { position: sticky; left: 0; background: var(--paper) }
.figures small { display: block; color: var(--faint); font-size: .75rem }
.faint, .none { color: var(--faint) }
.model { white-space: nowrap; font-weight: 600 }
.model i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em }
.samples { width: 100%; max-width: 52rem; table-layout: fixed }
.samples td, .samples thead th { padding: .15rem clamp(.3rem, 1.6vw, .9rem) .15rem 0; text-align: center;
  vertical-align: middle }
.samples .name th { text-align: left; padding: .7rem 0 .1rem }
.samples thead .name th { color: var(--faint); font-weight: 400; padding-bottom: 0 }
img { max-width: 100%; height: auto }
.samples img { width: 100%; image-rendering: pixelated; display: block }
.samples td table { width: 100%; font-size: .8rem }
.samples td table :is(td, th) { padding: .1rem .6rem .1rem 0; white-space: nowrap }
pre { background: var(--panel); border: 1px solid var(--grid); border-radius: .4rem; padding: .8rem 1rem;
  overflow-x: auto }
code { font: .875em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.chain { padding-left: 1.2rem }
.chain li { margin: .8rem 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .3rem 0; font-size: .9rem }
dt { color: var(--faint) }
dd { margin: 0; overflow-wrap: anywhere }
details { margin: 1rem 0; font-size: .9rem }
summary { cursor: pointer; color: var(--faint) }
footer { color: var(--faint); font-size: .875rem; border-top: 1px solid var(--grid); margin-top: 3rem }
@media (max-width: 30rem) {
  h1 { font-size: 1.5rem }
  dl { grid-template-columns: 1fr }
  dd { margin-bottom: .3rem }
}
@media print {
  nav { display: none }
  section { break-inside: avoid }
}
"""
