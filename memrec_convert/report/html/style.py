"""The page's style sheet: light and dark, from 360 pixels up, and on paper."""

from __future__ import annotations

from typing import Final

_LIGHT: Final = """
  --paper: #fcfcfb; --card: #f2f2ef; --ink: #1c1c1a; --soft: #55554f; --rule: #d4d4cd; --link: #1a4f8f;
  --c0: #1f5fa8; --c1: #b34700; --c2: #1b7a3d; --c3: #7a3fa0;
  --c4: #a3245b; --c5: #0b7a85; --c6: #7a6400; --c7: #62625c;
  --alarm: #9a2a12;
"""
_DARK: Final = """
  --paper: #161618; --card: #222226; --ink: #ececea; --soft: #b4b4ae; --rule: #44444a; --link: #8fbdf5;
  --c0: #7db4f5; --c1: #f2a05c; --c2: #6fd08c; --c3: #c79af0;
  --c4: #f58ab5; --c5: #5fd3dd; --c6: #d8c85a; --c7: #a9a9a4;
  --alarm: #ff9d85;
"""
_HUES: Final = "\n".join(
    f".c{number} {{ fill: var(--c{number}); }} .s{number} {{ stroke: var(--c{number}); }}" for number in range(8)
)

STYLE: Final = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{
  margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere;
}}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }}
h2 {{
  font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--rule);
}}
h3 {{ font-size: 1rem; margin: 1.5rem 0 .25rem; }}
p, ul.plain {{ max-width: 46rem; margin: .4rem 0 .8rem; }}
ul.plain {{ padding-left: 1.2rem; }}
a {{ color: var(--link); }}
header p, .note, caption, figcaption, .cards small {{ color: var(--soft); }}
.cards {{
  display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0;
}}
.cards div {{ background: var(--card); border-radius: .5rem; padding: .75rem 1rem; }}
.cards dt {{ color: var(--soft); font-size: .875rem; }}
.cards dd {{ margin: 0; font-size: 1.25rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }}
.cards dd span {{ white-space: nowrap; }}
.cards small {{ display: block; font-size: .875rem; font-weight: 400; margin-top: .25rem; line-height: 1.4; }}
.cards .alarm dd, .warnings h2 {{ color: var(--alarm); }}
.cards .alarm dd small {{ color: var(--soft); }}
.warnings ul {{ border-left: 4px solid var(--alarm); padding: .25rem 0 .25rem 2rem; }}
nav ul {{
  display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; list-style: none; padding: 0; margin: 0; font-size: .9375rem;
}}
nav a {{ display: inline-block; padding: .2rem 0; }}
figure {{ display: flow-root; margin: .75rem 0 1.25rem; max-width: 44rem; }}
figcaption {{ font-size: .9375rem; margin-bottom: .5rem; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 2rem; }}
.pair {{ align-items: start; }}
.pair > * {{ min-width: 0; }}
.pair table {{ width: auto; max-width: 100%; font-size: .875rem; }}
.pair th, .pair td {{ padding-right: .6rem; }}
.plot {{ display: block; overflow: visible; font-size: 13px; font-variant-numeric: tabular-nums; }}
.plot text {{
  fill: var(--ink); unicode-bidi: isolate; paint-order: stroke; stroke: var(--paper); stroke-width: 4px;
  stroke-linejoin: round;
}}
.plot .tick, .plot .said {{ fill: var(--soft); font-size: 12px; }}
.plot .mark {{ overflow: visible; }}
.rows .name {{ transform: translateX(-16px); }}
.rows .said {{ transform: translateX(16px); }}
.lines {{ width: calc(100% - 76px); margin: 28px 20px 52px 56px; }}
.rows {{ width: calc(100% - 32px); margin: 4px 16px 30px; }}
.plot line {{ stroke-width: 1.5; fill: none; }}
.plot line.grid {{ stroke: var(--rule); stroke-width: 1; }}
.plot line.level {{ stroke: var(--soft); stroke-dasharray: 4 4; }}
.plot line.span {{ stroke: var(--c7); stroke-width: 2; }}
.plot line.ours {{ stroke-width: 2.5; }}
.plot .hollow {{ fill: var(--paper); stroke: var(--c7); stroke-width: 2; }}
.own {{ fill: var(--ink); }}
.plot .mark .own {{ stroke: var(--paper); stroke-width: 1; }}
.plot .block {{ stroke: var(--paper); stroke-width: 1.5; }}
{_HUES}
.plot line.s0 {{ stroke: var(--c0); }}
.legend {{
  display: flex; flex-wrap: wrap; gap: .15rem 1rem; list-style: none; margin: .25rem 0 .5rem; padding: 0;
  font-size: .875rem;
}}
.legend svg {{ margin-right: .35rem; vertical-align: -2px; }}
.wide {{ overflow-x: auto; margin: .5rem 0 1rem; }}
.wide:focus-visible, summary:focus-visible, a:focus-visible, button:focus-visible {{
  outline: 3px solid var(--link); outline-offset: 2px;
}}
table {{
  width: max-content; max-width: max(100%, 56rem); border-collapse: collapse; font-size: .9375rem;
  font-variant-numeric: tabular-nums;
}}
caption {{ text-align: left; font-size: .9375rem; padding-bottom: .4rem; }}
th, td {{ padding: .3rem .75rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }}
thead th {{ vertical-align: bottom; border-bottom: 2px solid var(--soft); font-weight: 600; }}
th[scope=row] {{ font-weight: 500; }}
.figure {{ text-align: right; white-space: nowrap; overflow-wrap: normal; }}
thead .figure {{ white-space: normal; }}
.words {{ min-width: 6rem; max-width: 22rem; overflow-wrap: break-word; }}
th button {{
  font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit;
}}
th button::after {{ content: "\\a0\\2195"; content: "\\a0\\2195" / ""; color: var(--soft); font-weight: 400; }}
th[aria-sort=ascending] button::after {{ content: "\\a0\\2191"; content: "\\a0\\2191" / ""; color: inherit; }}
th[aria-sort=descending] button::after {{ content: "\\a0\\2193"; content: "\\a0\\2193" / ""; color: inherit; }}
pre {{
  white-space: pre-wrap; background: var(--card); border-radius: .375rem; padding: .5rem .75rem; max-width: 46rem;
  margin: .25rem 0 1rem; font: .875rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
}}
pre span {{ white-space: nowrap; }}
summary {{ cursor: pointer; padding: .25rem 0; color: var(--link); max-width: 46rem; }}
dl.facts {{
  display: grid; grid-template-columns: fit-content(14rem) minmax(0, 1fr); gap: .2rem 1.25rem; margin: .5rem 0 1rem;
}}
dl.facts dt {{ color: var(--soft); }}
dl.facts dd {{ margin: 0; }}
footer {{
  margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--rule); color: var(--soft); font-size: .875rem;
}}
@media (max-width: 30rem) {{
  dl.facts {{ grid-template-columns: minmax(0, 1fr); gap: 0; }}
  dl.facts dd {{ margin-bottom: .5rem; }}
  .cards {{ grid-template-columns: 1fr; }}
  table {{ font-size: .875rem; }}
  th, td {{ padding-right: .5rem; }}
  th[scope=row] {{ max-width: 6.5rem; }}
  td.words {{ min-width: 12rem; }}
}}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10pt; background: none; }}
  nav, summary, th button::after, .screen {{ display: none; }}
  .plot {{ zoom: .8; }}
  figure {{ max-width: none; margin: .5rem 0 .75rem; }}
  h2 {{ margin-top: 1.25rem; }}
  .legend, section > p {{ break-after: avoid; break-inside: avoid; }}
  .cards {{ grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }}
  .cards div {{ border: 1px solid var(--rule); }}
  .wide {{ overflow: visible; }}
  table {{ font-size: 8pt; width: auto; max-width: 100%; }}
  .pair table {{ font-size: 7.5pt; }}
  th, td, .pair th, .pair td {{ padding-right: .5em; }}
  .words {{ min-width: 4rem; }}
  h2, h3, caption, figcaption {{ break-after: avoid; }}
  figure, tr, .cards div {{ break-inside: avoid; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""
